//! Where the ledger lies.

use std::path::Path;

use rustix::fs::{StatVfsMountFlags, statfs, statvfs};

use super::{
    Look,
    account::{Account, Barred, Want},
};
use crate::config::Ledger;

/// File systems that cannot keep a promise: their numbers in `statfs(2)`, and why not.
const UNFIT: [(u32, &str); 9] = [
    (0x0102_1994, "is in memory (tmpfs) and gone with the power"),
    (0x8584_58f6, "is in memory (ramfs) and gone with the power"),
    (0x794c_7630, "is an overlay, which is mostly in memory"),
    (0x0000_4d44, "is FAT, which loses files in a power cut"),
    (0x2011_bab0, "is exFAT, which loses files in a power cut"),
    (0x0000_6969, "is on another machine (NFS)"),
    (0xff53_4d42, "is on another machine (CIFS)"),
    (0xfe53_4d42, "is on another machine (SMB)"),
    (0x7366_746e, "is NTFS"),
];

/// What is to be known of a file system.
struct Volume {
    kind: u32,
    free_bytes: u64,
    is_read_only: bool,
}

pub(super) fn look(settings: &Ledger, account: Option<&Account>) -> Vec<Look> {
    let at = "disk";
    let Some(folder) = settings.path.ancestors().skip(1).find(|folder| folder.is_dir()) else {
        let found = format!("there is no folder for {}", settings.path.display());
        return vec![Look::bad(at, found, "correct ledger.path")];
    };
    let volume = match volume(folder) {
        Ok(volume) => volume,
        Err(error) => return vec![Look::bad(at, format!("{} cannot be looked at: {error}", folder.display()), "look as root")],
    };
    let is_made = settings.path.parent() == Some(folder);
    let rights = account.filter(|_| is_made).and_then(|account| account.reach(folder, Want::Fill).err());
    vec![judge(folder, &volume, settings.min_free_bytes, rights)]
}

fn volume(folder: &Path) -> rustix::io::Result<Volume> {
    let (room, kind) = (statvfs(folder)?, statfs(folder)?.f_type);
    // A long on every machine, of which the numbers use 32 bits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let kind = kind as u32;
    let is_read_only = room.f_flag.contains(StatVfsMountFlags::RDONLY);
    Ok(Volume { kind, free_bytes: room.f_bavail.saturating_mul(room.f_frsize), is_read_only })
}

fn judge(folder: &Path, volume: &Volume, min_free_bytes: u64, barred: Option<Barred>) -> Look {
    let (at, folder, free_mib) = ("disk", folder.display(), volume.free_bytes >> 20);
    if let Some((_, why)) = UNFIT.iter().find(|(kind, _)| *kind == volume.kind) {
        return Look::bad(at, format!("{folder} {why}"), "put the ledger on a local ext4, xfs, btrfs or f2fs");
    }
    if volume.is_read_only {
        return Look::bad(
            at,
            format!("{folder} cannot be written: its file system is read-only"),
            "look at: dmesg; then mount it again",
        );
    }
    if let Some(Barred { by, rights }) = barred {
        let found = format!("the user faregate may not write in {folder} ({} has mode {rights})", by.display());
        return Look::bad(at, found, format!("chown faregate:faregate {folder}"));
    }
    if volume.free_bytes < min_free_bytes {
        let found = format!("{folder}: {free_mib} MiB free, which is less than ledger.min_free: the lanes are out of order");
        return Look::bad(at, found, "free some space");
    }
    Look::good(at, format!("{folder}: {free_mib} MiB free"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    const EXT4: u32 = 0xef53;

    fn verdict(kind: u32, free_bytes: u64, is_read_only: bool) -> Verdict {
        judge(Path::new("/var/lib/faregate"), &Volume { kind, free_bytes, is_read_only }, 64 << 20, None).verdict
    }

    #[test]
    fn a_ledger_in_memory_on_a_full_or_on_a_read_only_disk_is_an_error() {
        assert_eq!(verdict(EXT4, 64 << 20, false), Verdict::Good);
        assert_eq!(verdict(EXT4, (64 << 20) - 1, false), Verdict::Bad);
        assert_eq!(verdict(EXT4, u64::MAX, true), Verdict::Bad);
        assert_eq!(verdict(0x0102_1994, u64::MAX, false), Verdict::Bad);
    }

    #[test]
    fn memory_is_told_from_a_disk_on_this_machine() {
        assert_eq!(volume(Path::new("/proc")).unwrap().kind, 0x9fa0);
    }
}
