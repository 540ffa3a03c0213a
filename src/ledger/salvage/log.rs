//! The write-ahead log of a ledger, as far as it can be believed.
//!
//! SQLite reads a log up to the first frame whose checksum is wrong and drops the rest, which after a crash is right: what stands
//! behind was never acknowledged. It is one commit at most, since each commit is synced before the next begins. So where several commits
//! stand behind a broken frame, the log has been damaged: what they recorded was durable. Each frame's checksum continues that
//! of the frame before as it is stored there, so the frames behind a broken one can be checked all the same.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
};

use super::{super::store::PAGE_BYTES, record::u32_at};

const HEAD_BYTES: usize = 32;
const FRAME_HEAD_BYTES: usize = 24;
/// Of a log whose checksums are made of little-endian words; the other one is higher by 1.
const MAGIC_LITTLE_ENDIAN: u32 = 0x377f_0682;
/// A crash leaves the frames of one commit behind a frame that was not written.
const COMMITS_OF_A_CRASH: u64 = 1;

/// Where a log is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ledger) struct LogDamage {
    /// The first frame that cannot be read.
    pub(in crate::ledger) frame: u64,
    /// Commits that SQLite will drop with it.
    pub(in crate::ledger) commits: u64,
}

/// A page as a commit left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) page: u32,
    at: u64,
}

pub(super) struct Log {
    file: File,
    page_bytes: usize,
    /// In the order of writing.
    pub(super) frames: Vec<Frame>,
    newest: HashMap<u32, u64>,
    pub(super) damage: Option<LogDamage>,
}

impl Log {
    /// The log at this path; `None` when there is none, or none of its frames counts.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let Some(head) = Head::read(&file)? else { return Ok(None) };
        let mut bytes = BufReader::new(&file);
        bytes.seek(SeekFrom::Start(HEAD_BYTES as u64))?;
        let scan = head.scan(&mut bytes)?;
        let frames = scan.believed();
        let newest = frames.iter().map(|frame| (frame.page, frame.at)).collect();
        Ok(Some(Self { file, page_bytes: head.page_bytes, frames, newest, damage: scan.damage() }))
    }

    pub(super) fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// A page as the last commit left it.
    pub(super) fn newest(&self, page: u32) -> Option<Vec<u8>> {
        self.newest.get(&page).and_then(|at| self.content(Frame { page, at: *at }))
    }

    pub(super) fn content(&self, frame: Frame) -> Option<Vec<u8>> {
        let mut bytes = vec![0; self.page_bytes];
        self.file.read_exact_at(&mut bytes, frame.at).ok().map(|()| bytes)
    }
}

/// The log's own head.
struct Head {
    page_bytes: usize,
    is_little_endian: bool,
    salts: [u8; 8],
    sum: (u32, u32),
}

impl Head {
    /// `None` where there is no frame.
    fn read(file: &File) -> io::Result<Option<Self>> {
        let mut bytes = [0; HEAD_BYTES + FRAME_HEAD_BYTES];
        match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let (head, frame) = bytes.split_at(HEAD_BYTES);
        Ok(Some(Self::parse(head).unwrap_or_else(|| Self::of_frame(frame))))
    }

    fn parse(head: &[u8]) -> Option<Self> {
        let word = |place: usize| u32_at(head, 4 * place);
        let page_bytes = usize::try_from(word(2)?).ok().filter(|bytes| is_page_length(*bytes))?;
        let is_little_endian = word(0)? == MAGIC_LITTLE_ENDIAN;
        let parsed = Self { page_bytes, is_little_endian, salts: head[16..24].try_into().ok()?, sum: (word(6)?, word(7)?) };
        let is_sound = word(0)? & !1 == MAGIC_LITTLE_ENDIAN && parsed.sum((0, 0), &head[..24]) == parsed.sum;
        is_sound.then_some(parsed)
    }

    /// Where the head is spoiled: as the ledgers of these machines have it, and of one log with the first frame.
    fn of_frame(frame: &[u8]) -> Self {
        let mut salts = [0; 8];
        salts.copy_from_slice(&frame[8..16]);
        Self { page_bytes: PAGE_BYTES as usize, is_little_endian: true, salts, sum: (0, 0) }
    }

    /// The file is read to its end: behind a frame that is broken there may be others.
    fn scan(&self, bytes: &mut impl Read) -> io::Result<Scan> {
        let mut frame = vec![0; FRAME_HEAD_BYTES + self.page_bytes];
        let (mut scan, mut sum, mut at) = (Scan::default(), self.sum, HEAD_BYTES + FRAME_HEAD_BYTES);
        while fill(bytes, &mut frame)? {
            let word = |place: usize| u32_at(&frame, 4 * place).unwrap_or(0);
            let stored = (word(4), word(5));
            // What an older log has left behind the end of this one has other salts.
            let is_sound = frame[8..16] == self.salts && self.sum(self.sum(sum, &frame[..8]), &frame[FRAME_HEAD_BYTES..]) == stored;
            scan.take(is_sound.then_some(Frame { page: word(0), at: at as u64 }), word(1) != 0);
            (sum, at) = (stored, at + frame.len());
        }
        Ok(scan)
    }

    fn sum(&self, (mut first, mut second): (u32, u32), bytes: &[u8]) -> (u32, u32) {
        let word = |bytes: &[u8]| {
            let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
            if self.is_little_endian { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
        };
        for pair in bytes.chunks_exact(8) {
            first = first.wrapping_add(word(pair)).wrapping_add(second);
            second = second.wrapping_add(word(&pair[4..])).wrapping_add(first);
        }
        (first, second)
    }
}

/// What was found in the order of writing.
#[derive(Default)]
struct Scan {
    seen: u64,
    /// Sound ones.
    frames: Vec<Frame>,
    /// How many of them end with the last commit.
    committed: usize,
    /// The first that is not sound, how many were committed before it, and the commits behind it.
    broken: Option<(u64, usize, u64)>,
}

impl Scan {
    fn take(&mut self, sound: Option<Frame>, is_commit: bool) {
        self.seen += 1;
        let Some(frame) = sound else {
            self.broken.get_or_insert((self.seen, self.committed, 0));
            return;
        };
        self.frames.push(frame);
        if is_commit {
            self.committed = self.frames.len();
            if let Some((_, _, commits)) = &mut self.broken {
                *commits += 1;
            }
        }
    }

    fn damage(&self) -> Option<LogDamage> {
        let (frame, _, commits) = self.broken?;
        (commits > COMMITS_OF_A_CRASH).then_some(LogDamage { frame, commits })
    }

    /// Frames of commits: of a damaged log also those behind the damage.
    fn believed(&self) -> Vec<Frame> {
        let end = match (self.damage(), self.broken) {
            (None, Some((_, committed, _))) => committed,
            _ => self.committed,
        };
        self.frames[..end].to_vec()
    }
}

fn is_page_length(bytes: usize) -> bool {
    bytes.is_power_of_two() && (512..=65_536).contains(&bytes)
}

/// Whether there were so many bytes.
fn fill(bytes: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match bytes.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
