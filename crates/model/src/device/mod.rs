//! Where a model runs: what was asked for, and what was opened.

#[cfg(feature = "cuda")]
mod cuda;
mod limits;

pub use limits::{TimedRuns, time_copies, time_products};

use std::fmt;
use std::str::FromStr;

use candle_core::{Device, DeviceLocation};

use crate::error::{Error, Result};

/// Opens an NVIDIA GPU by ordinal.
type OpenCuda<'a> = dyn Fn(usize) -> candle_core::Result<Device> + 'a;

/// How this build opens a GPU; `None` where it has no CUDA.
#[cfg(feature = "cuda")]
const OPEN_CUDA: Option<&OpenCuda<'static>> = Some(&cuda::open);
/// How this build opens a GPU; `None` where it has no CUDA.
#[cfg(not(feature = "cuda"))]
const OPEN_CUDA: Option<&OpenCuda<'static>> = None;

/// What to look at where a GPU should be and none can be opened.
const CUDA_CHECKS: &str = "see that `nvidia-smi` lists it, that CUDA_VISIBLE_DEVICES does not hide it, and that the \
                           driver is as new as the CUDA that this program was built with";

/// The device a user asks for: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first NVIDIA GPU where this build has CUDA and there is one, else the host's processor.
    Auto,
    /// The host's processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU by ordinal, and nothing else; needs the `cuda` feature.
    Cuda(usize),
}

/// A device that was opened.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Where tensors are made.
    pub device: Device,
    /// Why it is the host's processor although a GPU was looked for, and what to do about that, in one line;
    /// `None` where what was asked for was opened.
    pub fell_back: Option<String>,
}

impl DeviceChoice {
    /// Opens the device. Only [`DeviceChoice::Auto`] may end on the host's processor instead of a GPU: whoever names one is
    /// not answered many times slower than expected. A build without CUDA looks for no GPU.
    ///
    /// # Errors
    /// [`Error::Device`] when a GPU was named and this build has no CUDA, or the driver does not open it.
    pub fn open(self) -> Result<Opened> {
        self.open_with(OPEN_CUDA)
    }

    /// As [`Self::open`], with GPUs opened by `open_cuda`.
    fn open_with(self, open_cuda: Option<&OpenCuda<'_>>) -> Result<Opened> {
        let opened = |device| Opened { device, fell_back: None };
        match (self, open_cuda) {
            (Self::Cpu, _) | (Self::Auto, None) => Ok(opened(Device::Cpu)),
            (Self::Auto, Some(open_cuda)) => Ok(open_cuda(0).map(opened).unwrap_or_else(|error| {
                let reason = first_line(&error);
                let fell_back = format!(
                    "no CUDA device could be opened ({reason}), so the model runs on the CPU, which is many times \
                     slower; if there is a GPU, {CUDA_CHECKS}; the device `cpu` says that the CPU is meant"
                );
                Opened { device: Device::Cpu, fell_back: Some(fell_back) }
            })),
            (Self::Cuda(_), None) => Err(self.refused(
                "this build has no CUDA; build with `--features cuda`, or choose `cpu` or `auto`"
                    .to_owned(),
            )),
            (Self::Cuda(ordinal), Some(open_cuda)) => {
                open_cuda(ordinal).map(opened).map_err(|error| {
                    let reason = first_line(&error);
                    self.refused(format!(
                        "it could not be opened ({reason}); {CUDA_CHECKS}, or choose `auto`, which takes the CPU \
                         where no GPU can be opened, or `cpu`"
                    ))
                })
            }
        }
    }

    fn refused(self, reason: String) -> Error {
        Error::Device { device: self.to_string(), reason }
    }
}

impl Opened {
    /// The device, after a warning in the log where it is not the one that was looked for.
    pub(crate) fn announced(self) -> Device {
        if let Some(reason) = self.fell_back {
            tracing::warn!("{reason}");
        }
        self.device
    }
}

/// A device's name in the words of [`DeviceChoice`]: `cpu`, or `cuda:N`.
#[must_use]
pub fn device_name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => DeviceChoice::Cpu.to_string(),
        DeviceLocation::Cuda { gpu_id } => DeviceChoice::Cuda(gpu_id).to_string(),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// An error without the backtrace that candle may have put below it.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || Error::Device {
            device: text.to_owned(),
            reason: "unknown; expected `auto`, `cpu`, `cuda` or `cuda:N`".to_owned(),
        };
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", ordinal)) => ordinal.parse().map(Self::Cuda).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// What the driver says where there is no GPU, with a backtrace below it.
    fn no_gpu(_ordinal: usize) -> candle_core::Result<Device> {
        candle_core::bail!("CUDA_ERROR_NO_DEVICE\n   0: a backtrace")
    }

    #[test]
    fn names_are_read_and_written_alike() {
        let named = [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda:3", DeviceChoice::Cuda(3)),
        ];
        for (text, choice) in named {
            assert_eq!(text.parse::<DeviceChoice>().unwrap(), choice);
            assert_eq!(choice.to_string(), text);
        }
        assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(0));
        for text in ["gpu", "cuda:x", "cuda:-1", "auto:0", "Auto", ""] {
            let error = text.parse::<DeviceChoice>().unwrap_err().to_string();
            assert!(error.contains("`auto`, `cpu`, `cuda` or `cuda:N`"), "{text}: {error}");
        }
    }

    #[test]
    fn a_build_without_cuda_takes_the_cpu_for_auto_and_says_nothing() {
        let opened = DeviceChoice::Auto.open_with(None).unwrap();
        assert!(opened.device.is_cpu());
        assert_eq!(opened.fell_back, None);
        let error = DeviceChoice::Cuda(1).open_with(None).unwrap_err().to_string();
        assert!(error.contains("`cuda:1`") && error.contains("--features cuda"), "{error}");
    }

    #[test]
    fn auto_without_a_gpu_falls_back_with_one_line_that_says_why_and_what_to_do() {
        let opened = DeviceChoice::Auto.open_with(Some(&no_gpu)).unwrap();
        assert!(opened.device.is_cpu());
        let said = opened.fell_back.unwrap();
        for part in ["CUDA_ERROR_NO_DEVICE", "on the CPU", "nvidia-smi", "`cpu`"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(said.lines().count(), 1, "{said}");
    }

    #[test]
    fn a_named_gpu_that_is_not_there_is_an_error_and_no_fallback() {
        let error = DeviceChoice::Cuda(2).open_with(Some(&no_gpu)).unwrap_err();
        assert!(matches!(error, Error::Device { .. }), "{error:?}");
        let said = error.to_string();
        for part in ["`cuda:2`", "CUDA_ERROR_NO_DEVICE", "nvidia-smi", "`auto`"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(said.lines().count(), 1, "{said}");
    }

    #[test]
    fn a_gpu_is_opened_by_its_ordinal_and_only_where_one_is_wanted() {
        let asked = RefCell::new(Vec::new());
        // Stands for a GPU, which a test on any machine cannot make.
        let open = |ordinal| {
            asked.borrow_mut().push(ordinal);
            Ok(Device::Cpu)
        };
        for choice in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda(3)] {
            assert_eq!(choice.open_with(Some(&open)).unwrap().fell_back, None, "{choice}");
        }
        assert_eq!(*asked.borrow(), [0, 3]);
    }

    #[test]
    fn an_opened_device_has_the_name_it_is_asked_for_by() {
        assert_eq!(device_name(&DeviceChoice::Cpu.open().unwrap().device), "cpu");
    }
}
