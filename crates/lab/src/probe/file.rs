//! `probe.safetensors`: a probe as a generation keeps it.
//!
//! `__metadata__` holds `classes` (JSON: the categories and `none`, what the vector store checks) and `spec` (JSON: format
//! version, what each member reads, what it was trained on). Tensors, all f32: `member.{i}.weights` `[1 + C, width]`,
//! `member.{i}.biases` `[1 + C]`, harm first and then the categories in the order of `classes`; `stack.harm` and `stack.categories`
//! `[num_members]`, `stack.bias` `[1]`. A probe that looks at answers has `answer.weights` `[1 + C, width]` and `answer.biases` `[1 + C]`,
//! of the width of its member on activations, `answer.calibration` `[2]` (scale and bias), and `answer` in its `spec`.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use skeg_vector_store::Category;

use super::answer::{AnswerPart, TrainedOnAnswers, width_of};
use super::member::{Input, Member, Planes};
use super::verdict::Stack;
use super::{Probe, TrainedOn};
use crate::error::{Error, Result};
use crate::exchange::{floats, read_bounded, shortened};
use crate::numbers::to_f32;
use crate::tensor_file::{self, NamedTensor};

const CLASSES: &str = "classes";
const SPEC: &str = "spec";
const NONE: &str = "none";
const FORMAT_VERSION: u32 = 1;
/// Bytes of a file: as many as the vector store takes.
const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;
/// Members of a file; more is no probe that anybody trained.
const MAX_MEMBERS: usize = 16;

/// The form of `spec`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    format_version: u32,
    members: Vec<Input>,
    trained_on: TrainedOn,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<TrainedOnAnswers>,
}

/// What any version has.
#[derive(Deserialize)]
struct Version {
    format_version: u32,
}

impl Probe {
    /// The file.
    ///
    /// # Errors
    /// [`Error::Data`] when the parts of the probe do not fit each other.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.check()?;
        let mut classes: Vec<&str> = self.categories.iter().map(Category::as_str).collect();
        classes.push(NONE);
        let spec = Spec {
            format_version: FORMAT_VERSION,
            members: self.members.iter().map(|member| member.input.clone()).collect(),
            trained_on: self.trained_on.clone(),
            answer: self.answer.as_ref().map(|part| part.trained_on),
        };
        let json = |error: serde_json::Error| Error::Data(format!("a probe's metadata: {error}"));
        let texts = BTreeMap::from([
            (CLASSES.to_owned(), serde_json::to_string(&classes).map_err(json)?),
            (SPEC.to_owned(), serde_json::to_string(&spec).map_err(json)?),
        ]);
        let stack = [
            ("harm", self.stack.harm.iter().map(|&value| to_f32(value)).collect::<Vec<_>>()),
            ("bias", vec![to_f32(self.stack.bias)]),
            ("categories", self.stack.categories.iter().map(|&value| to_f32(value)).collect()),
        ];
        let mut tensors = Vec::new();
        for (idx, Member { input, planes }) in self.members.iter().enumerate() {
            let num_planes = planes.biases.len();
            tensors.push(NamedTensor {
                name: format!("member.{idx}.weights"),
                shape: vec![num_planes, input.width()],
                values: &planes.weights,
            });
            tensors.push(NamedTensor {
                name: format!("member.{idx}.biases"),
                shape: vec![num_planes],
                values: &planes.biases,
            });
        }
        tensors.extend(stack.iter().map(|(name, values)| NamedTensor {
            name: format!("stack.{name}"),
            shape: vec![values.len()],
            values,
        }));
        tensors.extend(self.answer.iter().flat_map(answer_tensors));
        Ok(tensor_file::to_bytes(&texts, &tensors))
    }

    /// The bytes of a probe's file, for [`Self::from_bytes`].
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Data`] for what is no regular file or larger than a probe in a generation may be.
    pub fn read_file(path: &Path) -> Result<Vec<u8>> {
        let refused = |reason| Error::Data(format!("probe {}: {reason}", path.display()));
        read_bounded(path, MAX_FILE_BYTES, refused)
    }

    /// Reads a file that [`Self::to_bytes`] wrote. Allocates no more than its size allows, up to about 64 bytes for each byte of
    /// lists within lists.
    ///
    /// # Errors
    /// [`Error::Data`] when it is no such file, of another version, or its parts do not fit each other; the reason names the
    /// part.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Reader::new(bytes)?.read()
    }
}

fn answer_tensors(part: &AnswerPart) -> [NamedTensor<'_>; 3] {
    let AnswerPart { planes: Planes { weights, biases }, calibration, .. } = part;
    let num_planes = biases.len();
    let width = weights.len() / num_planes.max(1);
    let tensors: [(&str, Vec<usize>, &[f32]); 3] = [
        ("weights", vec![num_planes, width], weights),
        ("biases", vec![num_planes], biases),
        ("calibration", vec![calibration.len()], calibration),
    ];
    tensors.map(|(name, shape, values)| NamedTensor {
        name: format!("answer.{name}"),
        shape,
        values,
    })
}

fn bad(reason: impl std::fmt::Display) -> Error {
    Error::Data(format!("probe: {reason}; train the probe again with this build"))
}

struct Reader<'a> {
    tensors: SafeTensors<'a>,
    classes: Vec<String>,
    spec: Spec,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self> {
        let damaged =
            |error| bad(format_args!("not a safetensors file, or a truncated one: {error}"));
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(damaged)?;
        let texts = header.metadata().as_ref();
        let text = |key: &str| {
            let text = texts.and_then(|texts| texts.get(key));
            text.ok_or_else(|| bad(format_args!("its metadata has no `{key}`")))
        };
        let syntax =
            |key: &'static str| move |error| bad(format_args!("metadata `{key}`: {error}"));
        let classes = serde_json::from_str(text(CLASSES)?).map_err(syntax(CLASSES))?;
        let spec = text(SPEC)?;
        let Version { format_version } = serde_json::from_str(spec).map_err(syntax(SPEC))?;
        if format_version != FORMAT_VERSION {
            return Err(bad(format_args!(
                "format_version is {format_version}; this build reads {FORMAT_VERSION}"
            )));
        }
        Ok(Self { tensors, classes, spec: serde_json::from_str(spec).map_err(syntax(SPEC))? })
    }

    fn read(self) -> Result<Probe> {
        let num_members = self.spec.members.len();
        if num_members > MAX_MEMBERS {
            return Err(bad(format_args!("{num_members} members; expected at most {MAX_MEMBERS}")));
        }
        let mut classes = self.classes.clone();
        if classes.pop().as_deref() != Some(NONE) {
            return Err(bad(format_args!("metadata `{CLASSES}` does not end with `{NONE}`")));
        }
        let categories: Vec<Category> =
            classes.iter().map(|slug| Category::parse(slug).map_err(bad)).collect::<Result<_>>()?;
        let num_planes = 1 + categories.len();
        let mut members = Vec::with_capacity(num_members);
        for (idx, input) in self.spec.members.iter().enumerate() {
            input.check()?;
            let shape = [num_planes, input.width()];
            let weights = self.tensor(&format!("member.{idx}.weights"), &shape)?;
            let biases = self.tensor(&format!("member.{idx}.biases"), &[num_planes])?;
            members.push(Member { input: input.clone(), planes: Planes { weights, biases } });
        }
        let stack = |name: &str, len: usize| {
            let values = self.tensor(&format!("stack.{name}"), &[len])?;
            Ok::<_, Error>(values.into_iter().map(f64::from).collect::<Vec<_>>())
        };
        let bias = stack("bias", 1)?.first().copied().unwrap_or_default();
        let (harm, of_categories) =
            (stack("harm", num_members)?, stack("categories", num_members)?);
        let stack = Stack { harm, bias, categories: of_categories };
        let trained_on = self.spec.trained_on.clone();
        let mut probe = Probe { categories, members, stack, trained_on, answer: None };
        probe.answer =
            self.spec.answer.map(|trained_on| self.answer(&probe, trained_on)).transpose()?;
        probe.check()?;
        Ok(probe)
    }

    fn answer(&self, probe: &Probe, trained_on: TrainedOnAnswers) -> Result<AnswerPart> {
        let num_planes = 1 + probe.categories.len();
        let weights = self.tensor("answer.weights", &[num_planes, width_of(probe)?])?;
        let biases = self.tensor("answer.biases", &[num_planes])?;
        let calibration = self.tensor("answer.calibration", &[2])?;
        let calibration = [calibration[0], calibration[1]];
        Ok(AnswerPart { planes: Planes { weights, biases }, calibration, trained_on })
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self
            .tensors
            .tensor(name)
            .map_err(|_| bad(format_args!("it has no tensor `{name}`")))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
            return Err(bad(format_args!(
                "tensor `{name}` is {:?} {}; expected F32 {shape:?}",
                tensor.dtype(),
                shortened(tensor.shape())
            )));
        }
        let values = floats(tensor.data());
        match values.iter().position(|value| !value.is_finite()) {
            Some(idx) => Err(bad(format_args!("value {idx} of tensor `{name}` is not finite"))),
            None => Ok(values),
        }
    }
}
