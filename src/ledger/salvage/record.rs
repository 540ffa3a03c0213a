//! What one page of a SQLite file holds, whatever is wrong with the others: its cells, and the values in them, after the file format's
//! own description. Pure, and trusts nothing: what does not fit is no cell.

use rusqlite::types::Value;

/// Of the page's head: rows of a table.
const TABLE_LEAF: u8 = 13;
/// Of the page's head: keys of an index, or rows of a table without rowid.
const INDEX_LEAF: u8 = 10;
const INDEX_INTERIOR: u8 = 2;
/// The head of the file stands before that of its first page.
const FILE_HEAD_BYTES: usize = 100;

/// Where a page lies in its file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// The page's length.
    pub(super) page_bytes: usize,
    /// Of which so many at its end are somebody else's.
    pub(super) reserved_bytes: usize,
}

impl Layout {
    fn usable(self) -> usize {
        self.page_bytes - self.reserved_bytes
    }
}

/// What is kept of a cell in its page.
#[derive(Debug, PartialEq)]
pub(super) struct Cell<'a> {
    /// Of a row of a table.
    pub(super) rowid: Option<i64>,
    /// The length of the whole.
    pub(super) payload_bytes: usize,
    /// Its beginning.
    pub(super) local: &'a [u8],
    /// The page where it goes on.
    pub(super) overflow: Option<u32>,
}

/// The cells of a page that holds rows or keys; none of any other.
pub(super) fn cells(page: &[u8], number: u32, layout: Layout) -> Vec<Cell<'_>> {
    let head = if number == 1 { FILE_HEAD_BYTES } else { 0 };
    let Some(&kind) = page.get(head) else { return Vec::new() };
    let pointers = match kind {
        TABLE_LEAF | INDEX_LEAF => head + 8,
        INDEX_INTERIOR => head + 12,
        _ => return Vec::new(),
    };
    let count = u16_at(page, head + 3).unwrap_or(0);
    let starts = (0..usize::from(count)).map_while(|place| u16_at(page, pointers + 2 * place));
    starts.filter_map(|start| cell(page, usize::from(start), kind, layout)).collect()
}

fn cell(page: &[u8], start: usize, kind: u8, layout: Layout) -> Option<Cell<'_>> {
    let mut rest = page.get(start + if kind == INDEX_INTERIOR { 4 } else { 0 }..layout.usable())?;
    let payload_bytes = usize::try_from(varint(&mut rest)?).ok()?;
    let rowid = if kind == TABLE_LEAF { Some(varint(&mut rest)?) } else { None };
    let local_bytes = local_bytes(payload_bytes, kind, layout.usable());
    let local = rest.get(..local_bytes)?;
    let overflow = if local_bytes < payload_bytes { Some(u32_at(rest, local_bytes)?) } else { None };
    Some(Cell { rowid, payload_bytes, local, overflow })
}

/// How much of a payload lies in the page itself.
fn local_bytes(payload_bytes: usize, kind: u8, usable: usize) -> usize {
    let most = if kind == TABLE_LEAF { usable - 35 } else { (usable - 12) * 64 / 255 - 23 };
    let least = (usable - 12) * 32 / 255 - 23;
    if payload_bytes <= most {
        return payload_bytes;
    }
    let fitting = least + (payload_bytes - least) % (usable - 4);
    if fitting <= most { fitting } else { least }
}

/// The values of a whole payload.
pub(super) fn values(payload: &[u8]) -> Option<Vec<Value>> {
    let mut head = payload;
    let head_bytes = usize::try_from(varint(&mut head)?).ok()?;
    let mut types = payload.get(payload.len() - head.len()..head_bytes)?;
    let mut content = payload.get(head_bytes..)?;
    let mut values = Vec::new();
    while !types.is_empty() {
        values.push(value(varint(&mut types)?, &mut content)?);
    }
    Some(values)
}

fn value(serial_type: i64, content: &mut &[u8]) -> Option<Value> {
    Some(match serial_type {
        0 => Value::Null,
        1..=4 => Value::Integer(integer(take(content, usize::try_from(serial_type).ok()?)?)),
        5 => Value::Integer(integer(take(content, 6)?)),
        6 => Value::Integer(integer(take(content, 8)?)),
        7 => Value::Real(f64::from_be_bytes(take(content, 8)?.try_into().ok()?)),
        8 => Value::Integer(0),
        9 => Value::Integer(1),
        12.. => {
            let bytes = take(content, usize::try_from((serial_type - 12) / 2).ok()?)?.to_vec();
            if serial_type % 2 == 0 { Value::Blob(bytes) } else { String::from_utf8(bytes).map(Value::Text).ok()? }
        }
        _ => return None,
    })
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

/// Big-endian, with its sign.
fn integer(bytes: &[u8]) -> i64 {
    let sign = if bytes.first().is_some_and(|first| *first >= 0x80) { -1 } else { 0 };
    bytes.iter().fold(sign, |value, byte| value << 8 | i64::from(*byte))
}

/// Seven bits a byte, highest first; the ninth byte has eight.
fn varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0;
    for place in 0..9 {
        let byte = take(bytes, 1)?[0];
        if place == 8 {
            return Some(value << 8 | i64::from(byte));
        }
        value = value << 7 | i64::from(byte & 0x7f);
        if byte < 0x80 {
            break;
        }
    }
    Some(value)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LAYOUT: Layout = Layout { page_bytes: 512, reserved_bytes: 0 };

    #[test]
    fn values_are_read_as_the_format_describes_them() {
        let record = [8, 0, 1, 2, 8, 9, 13 + 2 * 2, 12 + 2, 0xfe, 0x01, 0x00, b'o', b'k', 7];
        let read = values(&record).unwrap();
        let integers = [Value::Integer(-2), Value::Integer(256), Value::Integer(0), Value::Integer(1)];
        assert_eq!(read[0], Value::Null);
        assert_eq!(read[1..5], integers);
        assert_eq!(read[5..], [Value::Text("ok".to_owned()), Value::Blob(vec![7])]);
    }

    #[test]
    fn a_number_of_nine_bytes_uses_all_bits_of_the_last() {
        assert_eq!(varint(&mut &[0xff; 9][..]), Some(-1));
        assert_eq!(varint(&mut &[0x81, 0x00][..]), Some(128));
        assert_eq!(varint(&mut &[0x81][..]), None);
    }

    proptest! {
        #[test]
        fn whatever_a_page_holds_it_is_read_without_a_fault(page in proptest::collection::vec(any::<u8>(), 0..600), kind in 0_u8..16) {
            let mut page = page;
            if let Some(first) = page.first_mut() {
                *first = kind;
            }
            for number in [1, 2] {
                for cell in cells(&page, number, LAYOUT) {
                    let _ = values(cell.local);
                }
            }
        }
    }
}
