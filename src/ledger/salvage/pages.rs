//! A ledger's file and the log beside it, as pages. Reads each by itself; a page that cannot be read is passed over.

use std::{collections::HashSet, fs::File, io, os::unix::fs::FileExt, path::Path};

use rusqlite::types::Value;

use super::{
    super::store::PAGE_BYTES,
    log::Log,
    log_of,
    record::{Cell, Layout, cells, u32_at, values},
};

/// What a file of SQLite begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// No row is longer: a request holds two codes of 4096 bytes at most.
const PAYLOAD_BYTES_MAX: usize = 1 << 16;

pub(super) struct Image {
    /// `None` where only a log was kept.
    file: Option<File>,
    pages: u32,
    layout: Layout,
    log: Option<Log>,
}

impl Image {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let log = Log::read(&log_of(path))?;
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && log.is_some() => None,
            file => Some(file?),
        };
        let mut head = [0; 100];
        let has_head = file.as_ref().is_some_and(|file| file.read_exact_at(&mut head, 0).is_ok()) && head.starts_with(MAGIC);
        let layout = Layout {
            page_bytes: page_bytes(&head).filter(|_| has_head).or(log.as_ref().map(Log::page_bytes)).unwrap_or(PAGE_BYTES as usize),
            reserved_bytes: if has_head { usize::from(head[20]) } else { 0 },
        };
        let log = log.filter(|log| log.page_bytes() == layout.page_bytes);
        let length = file.as_ref().map(File::metadata).transpose()?.map_or(0, |file| file.len());
        let pages = u32::try_from(length / layout.page_bytes as u64).unwrap_or(u32::MAX);
        Ok(Self { file, pages, layout, log })
    }

    /// Whether there is a file beside the log, so that all rows should be there.
    pub(super) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Every record of every page, each page as the file has it and then as each commit in the log left it.
    pub(super) fn each_record(&self, mut take: impl FnMut(Option<i64>, Vec<Value>)) {
        let free = self.free_pages();
        for number in (1..=self.pages).filter(|number| !free.contains(number)) {
            if let Some(page) = self.in_file(number) {
                self.each_in_page(&page, number, &mut take);
            }
        }
        for frame in self.log.iter().flat_map(|log| &log.frames).filter(|frame| !free.contains(&frame.page)) {
            if let Some(page) = self.log.as_ref().and_then(|log| log.content(*frame)) {
                self.each_in_page(&page, frame.page, &mut take);
            }
        }
    }

    fn each_in_page(&self, page: &[u8], number: u32, take: &mut impl FnMut(Option<i64>, Vec<Value>)) {
        for cell in cells(page, number, self.layout) {
            if let Some(values) = self.payload(&cell).and_then(|payload| values(&payload)) {
                take(cell.rowid, values);
            }
        }
    }

    /// A payload with what lies in other pages.
    fn payload(&self, cell: &Cell<'_>) -> Option<Vec<u8>> {
        if cell.payload_bytes > PAYLOAD_BYTES_MAX {
            return None;
        }
        let (mut payload, mut next) = (cell.local.to_vec(), cell.overflow);
        while payload.len() < cell.payload_bytes {
            let page = self.newest(next?)?;
            let content = page.get(4..self.layout.page_bytes - self.layout.reserved_bytes)?;
            payload.extend(&content[..content.len().min(cell.payload_bytes - payload.len())]);
            next = u32_at(&page, 0).filter(|next| *next != 0);
        }
        Some(payload)
    }

    fn newest(&self, number: u32) -> Option<Vec<u8>> {
        self.log.as_ref().and_then(|log| log.newest(number)).or_else(|| self.in_file(number))
    }

    fn in_file(&self, number: u32) -> Option<Vec<u8>> {
        let mut page = vec![0; self.layout.page_bytes];
        let at = u64::from(number.checked_sub(1)?) * self.layout.page_bytes as u64;
        self.file.as_ref()?.read_exact_at(&mut page, at).ok().map(|()| page)
    }

    /// Pages that hold what was removed, where the file's head still leads to them. A list of another length than it says is spoiled,
    /// and would hide what is needed.
    fn free_pages(&self) -> HashSet<u32> {
        let head = self.newest(1).filter(|head| head.starts_with(MAGIC)).unwrap_or_default();
        let free = self.free_from(u32_at(&head, 32).unwrap_or(0));
        let is_whole = u32_at(&head, 36).is_some_and(|count| usize::try_from(count) == Ok(free.len()));
        if is_whole { free } else { HashSet::new() }
    }

    fn free_from(&self, mut next: u32) -> HashSet<u32> {
        let mut free = HashSet::new();
        while next != 0 && free.insert(next) {
            let Some(trunk) = self.newest(next) else { break };
            let count = u32_at(&trunk, 4).and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
            free.extend((0..count).map_while(|place| u32_at(&trunk, 8 + 4 * place)));
            next = u32_at(&trunk, 0).unwrap_or(0);
        }
        free
    }
}

fn page_bytes(head: &[u8]) -> Option<usize> {
    let written = usize::from(u16::from_be_bytes([*head.get(16)?, *head.get(17)?]));
    let bytes = if written == 1 { 65_536 } else { written };
    (bytes.is_power_of_two() && bytes >= 512).then_some(bytes)
}
