//! `NumPy`'s `.npy`: a header in the form that `numpy.save` gives it, and the numbers in row-major order.

use super::Parsed;
use super::cursor::Cursor;

const MAGIC: &[u8] = b"\x93NUMPY";
/// Header and values together begin at a multiple of this.
const ALIGNMENT: usize = 64;
const MAX_DIMENSIONS: usize = 8;

/// The number types that steering vectors need, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbers {
    U8,
    I32,
    I64,
    F32,
}

impl Numbers {
    const ALL: [Self; 4] = [Self::U8, Self::I32, Self::I64, Self::F32];

    /// `NumPy`'s word and the bytes of one.
    fn description(self) -> (&'static str, usize) {
        match self {
            Self::U8 => ("|u1", 1),
            Self::I32 => ("<i4", 4),
            Self::I64 => ("<i8", 8),
            Self::F32 => ("<f4", 4),
        }
    }
}

/// An array whose data has the length that its shape says.
#[derive(Debug)]
pub(super) struct Array<'a> {
    pub(super) numbers: Numbers,
    pub(super) shape: Vec<usize>,
    pub(super) data: &'a [u8],
}

impl Array<'_> {
    /// For messages.
    pub(super) fn found(&self) -> String {
        format!("{} {:?}", self.numbers.description().0, self.shape)
    }
}

/// Reads an array.
pub(super) fn parse(bytes: &[u8]) -> Parsed<Array<'_>> {
    let mut cursor = Cursor::at(bytes, 0);
    if cursor.take(MAGIC.len(), "the magic number")? != MAGIC {
        return Err("not an array of NumPy".to_owned());
    }
    let version = cursor.u16("the version")?.to_le_bytes();
    let header_bytes = match version {
        [1, 0] => cursor.u16_size("the header's length")?,
        [2 | 3, 0] => cursor.u32_size("the header's length")?,
        _ => return Err(format!("version {version:?} of the format; expected 1.0 to 3.0")),
    };
    let header = std::str::from_utf8(cursor.take(header_bytes, "the header")?);
    let header = header.map_err(|_| "the header is not text".to_owned())?;
    let (numbers, shape) = parse_header(header)?;
    let data = cursor.take(cursor.remaining(), "the data")?;
    let num_bytes = shape.iter().try_fold(numbers.description().1, |n, &size| n.checked_mul(size));
    if num_bytes != Some(data.len()) {
        let (found, word) = (data.len(), numbers.description().0);
        return Err(format!("{found} bytes of data for {word} {shape:?}; truncated or damaged"));
    }
    Ok(Array { numbers, shape, data })
}

/// `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 64), }`, whatever its spaces.
fn parse_header(header: &str) -> Parsed<(Numbers, Vec<usize>)> {
    let unclear = || {
        let shown: String = header.chars().take(96).collect();
        format!(
            "header {shown:?}; expected descr, fortran_order and shape, as numpy.save writes it"
        )
    };
    let packed: String = header.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let rest = packed.strip_prefix("{'descr':'").ok_or_else(unclear)?;
    let (word, rest) = rest.split_once("','fortran_order':").ok_or_else(unclear)?;
    let (order, rest) = rest.split_once(",'shape':(").ok_or_else(unclear)?;
    let shape = rest.strip_suffix('}').map(|rest| rest.strip_suffix(',').unwrap_or(rest));
    let shape = shape.and_then(|shape| shape.strip_suffix(')')).ok_or_else(unclear)?;
    if word.len() > 8 {
        return Err(unclear());
    }
    let numbers = Numbers::ALL.into_iter().find(|numbers| numbers.description().0 == word);
    let numbers = numbers.ok_or_else(|| {
        format!(
            "numbers of type {word:?}; expected '<f4' for vectors and '<i8' or '<i4' for layers"
        )
    })?;
    let sizes = shape.strip_suffix(',').unwrap_or(shape).split(',');
    let sizes = sizes.filter(|_| !shape.is_empty()).take(MAX_DIMENSIONS + 1);
    let shape = sizes.map(|size| size.parse::<usize>().map_err(|_| unclear()));
    let shape = shape.collect::<Parsed<Vec<usize>>>()?;
    if shape.len() > MAX_DIMENSIONS {
        return Err(unclear());
    }
    match order {
        "False" => Ok((numbers, shape)),
        "True" if shape.len() < 2 => Ok((numbers, shape)),
        "True" => Err("columns first; write it with numpy.ascontiguousarray".to_owned()),
        _ => Err(unclear()),
    }
}

/// The bytes of an array, of version 1.0.
pub(super) fn write(
    numbers: Numbers,
    shape: &[usize],
    data: impl IntoIterator<Item = u8>,
) -> Vec<u8> {
    let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    let comma = if sizes.len() == 1 { "," } else { "" };
    let (word, shape) = (numbers.description().0, sizes.join(", "));
    let mut header =
        format!("{{'descr': '{word}', 'fortran_order': False, 'shape': ({shape}{comma}), }}");
    let before = MAGIC.len() + 4;
    let end = (before + header.len() + 1).next_multiple_of(ALIGNMENT);
    header.extend(std::iter::repeat_n(' ', end - before - header.len() - 1));
    header.push('\n');
    // A type and at most two sizes: far below 65,536.
    let num_bytes = u16::try_from(header.len()).unwrap_or(u16::MAX);
    let mut bytes = [MAGIC, &[1, 0], &num_bytes.to_le_bytes(), header.as_bytes()].concat();
    bytes.extend(data);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_what_its_header_says() {
        let values = [1.0_f32, -0.5];
        let bytes = write(Numbers::F32, &[1, 2], super::super::float_bytes(&values));
        assert_eq!((bytes.len() - 8) % ALIGNMENT, 0);
        let array = parse(&bytes).unwrap();
        assert_eq!((array.numbers, array.shape.as_slice()), (Numbers::F32, &[1, 2][..]));
        assert_eq!(super::super::floats(array.data), values);
        // NumPy's, with spaces of its own, and of version 2.
        let header = b"{'descr': '<i8', 'fortran_order': True,  'shape': (1,), }\n";
        let length = u32::try_from(header.len()).unwrap().to_le_bytes();
        let bytes = [MAGIC, &[2, 0], &length, header, &[7, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(parse(&bytes).unwrap().shape, [1]);
    }

    #[test]
    fn another_header_is_refused() {
        let bytes = write(Numbers::F32, &[2, 3], [0; 24]);
        for (from, to, expected) in [
            ("(2, 3)", "(3, 3)", "24 bytes of data"),
            ("(2, 3)", "(2,99)", "24 bytes of data"),
            ("(2, 3)", "(2,-3)", "expected descr"),
            ("<f4", "<f8", "numbers of type"),
            ("<f4", ">f4", "numbers of type"),
            ("False", "True ", "columns first"),
            ("'shape'", "'shaqe'", "expected descr"),
        ] {
            let at = (0..bytes.len()).find(|&at| bytes[at..].starts_with(from.as_bytes()));
            let mut changed = bytes.clone();
            changed[at.unwrap()..][..to.len()].copy_from_slice(to.as_bytes());
            let error = parse(&changed).unwrap_err();
            assert!(error.contains(expected), "{from} -> {to}: {error}");
        }
        // More than memory has, in a product that a usize has not.
        let header =
            b"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }\n";
        let bytes = [MAGIC, &[1, 0, 78, 0], header].concat();
        assert!(parse(&bytes).unwrap_err().contains("0 bytes of data"));
    }
}
