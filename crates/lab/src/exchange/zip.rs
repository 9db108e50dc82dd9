//! The container of `.npz`: a zip file whose members are stored as they are.
//!
//! Our own reader, since a compressed member may be a thousand times as large as the file says, and members of a zip file may
//! overlap. Here they are stored, do not overlap, and their sums must be right.

use std::collections::BTreeMap;

use super::Parsed;
use super::cursor::Cursor;

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_BYTES: usize = 22;
const LOCAL_BYTES: usize = 30;
/// A zip file's comment is not longer.
const MAX_COMMENT_BYTES: usize = 65_535;
const MAX_NAME_BYTES: usize = 256;
const STORED: u16 = 0;
/// 1980-01-01, the first day that the format has: equal content gives equal bytes.
const DATE: u16 = 0x0021;
const VERSION: u16 = 20;
const ENCRYPTED: u16 = 1;

/// A file within the file, by name.
type Member<'a> = (&'a str, &'a [u8]);

/// Reads the members by name, each once.
pub(super) fn members(bytes: &[u8]) -> Parsed<BTreeMap<&str, &[u8]>> {
    let end = find_end(bytes)?;
    let mut cursor = Cursor::at(bytes, end + 4);
    let disks = [cursor.u16("a disk")?, cursor.u16("a disk")?];
    let counts = [cursor.u16("the members")?, cursor.u16("the members")?];
    let num_bytes = cursor.u32_size("the directory's length")?;
    let start = cursor.u32_size("the directory's offset")?;
    if disks != [0, 0] || counts[0] != counts[1] || start.checked_add(num_bytes) != Some(end) {
        return Err(
            "the zip file's directory is not where its end says; truncated or damaged".to_owned()
        );
    }
    let mut directory = Cursor::at(&bytes[..end], start);
    let mut members = BTreeMap::new();
    // Members that overlap would give more than the file has.
    let mut num_left = start;
    for _ in 0..counts[0] {
        let (name, content) = read_member(bytes, start, &mut directory)?;
        let taken = content.len() + LOCAL_BYTES;
        num_left = num_left.checked_sub(taken).ok_or("members overlap; damaged")?;
        if members.insert(name, content).is_some() {
            return Err(format!("member `{name}` is there twice"));
        }
    }
    if directory.remaining() > 0 {
        return Err("more in the zip file's directory than its end says; damaged".to_owned());
    }
    Ok(members)
}

/// Where the end record begins: the last place that reads like one.
fn find_end(bytes: &[u8]) -> Parsed<usize> {
    let no_end = || "not a zip file, or a truncated one: no end of its directory".to_owned();
    let last = bytes.len().checked_sub(END_BYTES).ok_or_else(no_end)?;
    let first = last.saturating_sub(MAX_COMMENT_BYTES);
    let is_end = |&place: &usize| {
        let comment = last - place;
        let record = &bytes[place..];
        record.starts_with(&END.to_le_bytes())
            && usize::from(u16::from_le_bytes([record[20], record[21]])) == comment
    };
    (first..=last).rev().find(is_end).ok_or_else(no_end)
}

/// One member: what the directory says of it must be so.
fn read_member<'a>(
    bytes: &'a [u8],
    directory_start: usize,
    directory: &mut Cursor<'a>,
) -> Parsed<Member<'a>> {
    const WHAT: &str = "the zip file's directory";
    if directory.u32(WHAT)? != CENTRAL {
        return Err(format!("{WHAT} is damaged"));
    }
    directory.take(4, WHAT)?;
    let (flags, method) = (directory.u16(WHAT)?, directory.u16(WHAT)?);
    directory.take(4, WHAT)?;
    let checksum = directory.u32(WHAT)?;
    let sizes = [directory.u32_size(WHAT)?, directory.u32_size(WHAT)?];
    let name_bytes = directory.u16_size(WHAT)?;
    let more_bytes = directory.u16_size(WHAT)? + directory.u16_size(WHAT)?;
    directory.take(8, WHAT)?;
    let offset = directory.u32_size(WHAT)?;
    if name_bytes > MAX_NAME_BYTES {
        return Err(format!(
            "a member's name of {name_bytes} bytes; expected at most {MAX_NAME_BYTES}"
        ));
    }
    let name = std::str::from_utf8(directory.take(name_bytes, WHAT)?);
    let name = name.map_err(|_| "a member's name is not UTF-8".to_owned())?;
    directory.take(more_bytes, WHAT)?;
    if method != STORED || flags & ENCRYPTED != 0 || sizes[0] != sizes[1] {
        return Err(format!(
            "member `{name}` is compressed or encrypted; write the file with numpy.savez"
        ));
    }
    let content = read_content(&bytes[..directory_start], offset, name, sizes[0])?;
    if crc32(content) != checksum {
        return Err(format!("member `{name}` is damaged: its checksum is wrong"));
    }
    Ok((name, content))
}

fn read_content<'a>(before: &'a [u8], offset: usize, name: &str, size: usize) -> Parsed<&'a [u8]> {
    const WHAT: &str = "a member";
    let mut local = Cursor::at(before, offset);
    if local.u32(WHAT)? != LOCAL {
        return Err(format!("member `{name}` is not where the directory says; damaged"));
    }
    local.take(22, WHAT)?;
    let (name_bytes, extra_bytes) = (local.u16_size(WHAT)?, local.u16_size(WHAT)?);
    if local.take(name_bytes, WHAT)? != name.as_bytes() {
        return Err(format!("member `{name}` has another name in the directory; damaged"));
    }
    local.take(extra_bytes, WHAT)?;
    local.take(size, WHAT)
}

/// CRC-32 as zip has it (reflected 0x04C11DB7), bit by bit: a few million bytes at most.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, &byte: &u8| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1))
        })
    };
    !bytes.iter().fold(u32::MAX, step)
}

/// Writes members, stored.
pub(super) fn write(members: &[(String, Vec<u8>)]) -> Parsed<Vec<u8>> {
    let too_large = |_| "more than 4 GiB; a zip file of this kind holds no more".to_owned();
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in members {
        let offset = u32::try_from(bytes.len()).map_err(too_large)?;
        let size = u32::try_from(content.len()).map_err(too_large)?.to_le_bytes();
        let name_bytes = u16::try_from(name.len()).map_err(|_| format!("`{name}` is too long"))?;
        let [zero, date, version] = [0, DATE, VERSION].map(u16::to_le_bytes);
        // Flags, method, time, date, checksum, both sizes, the name's length, no extra field: in both headers.
        let common = [
            [zero, zero, zero, date].concat(),
            [crc32(content).to_le_bytes(), size, size].concat(),
            [name_bytes.to_le_bytes(), zero].concat(),
        ]
        .concat();
        let local = [&LOCAL.to_le_bytes(), &version[..], &common, name.as_bytes()].concat();
        let central = [&CENTRAL.to_le_bytes(), &version[..], &version, &common].concat();
        directory.extend(central);
        // No comment, disk 0, no attributes.
        directory.extend([zero; 5].concat());
        directory.extend(offset.to_le_bytes());
        directory.extend(name.bytes());
        bytes.extend(local);
        bytes.extend(content);
    }
    let start = u32::try_from(bytes.len()).map_err(too_large)?.to_le_bytes();
    let length = u32::try_from(directory.len()).map_err(too_large)?.to_le_bytes();
    let count = u16::try_from(members.len()).map_err(|_| "more than 65,535 members".to_owned())?;
    let count = count.to_le_bytes();
    bytes.extend(directory);
    bytes.extend(
        [&END.to_le_bytes()[..], &[0; 4], &count, &count, &length, &start, &[0; 2]].concat(),
    );
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zip(name: &str, content: Vec<u8>) -> Vec<u8> {
        write(&[(name.to_owned(), content)]).unwrap()
    }

    #[test]
    fn the_checksum_is_zips() {
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn members_that_overlap_are_refused() {
        // `a` is a member whose content is the member `b`, and the directory names both.
        let inner = zip("b", vec![7; 40]);
        let local = inner[..LOCAL_BYTES + 1 + 40].to_vec();
        let start = LOCAL_BYTES + 1 + local.len();
        let outer = zip("a", local.clone());
        let end = outer.len() - END_BYTES;
        let mut record = inner[local.len()..inner.len() - END_BYTES].to_vec();
        let place = u32::try_from(LOCAL_BYTES + 1).unwrap().to_le_bytes();
        record[42..46].copy_from_slice(&place);
        let length = u32::try_from(end - start + record.len()).unwrap().to_le_bytes();
        let mut last = outer[end..].to_vec();
        last[8..12].copy_from_slice(&[2, 0, 2, 0]);
        last[12..16].copy_from_slice(&length);
        let bytes = [&outer[..end], &record, &last].concat();
        assert_eq!(members(&bytes).unwrap_err(), "members overlap; damaged");
        assert_eq!(members(&outer).unwrap().keys().collect::<Vec<_>>(), [&"a"]);
    }

    #[test]
    fn a_compressed_member_is_refused_with_what_to_do() {
        let mut bytes = zip("a", vec![7; 40]);
        let directory = LOCAL_BYTES + 1 + 40;
        bytes[directory + 10] = 8;
        assert!(members(&bytes).unwrap_err().contains("write the file with numpy.savez"));
    }
}
