//! The account that the service runs under, and what it may do: by the rights of files, not by trying, since whoever looks is somebody
//! else. Access control lists are not looked at.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::Look;

/// The service's user, as the package makes it.
const NAME: &str = "faregate";

/// A user and the groups that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    uid: u32,
    gids: Vec<u32>,
}

/// What somebody wants to do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Read,
    ReadWrite,
    Search,
    /// In a folder: make files.
    Fill,
}

impl Want {
    fn bits(self) -> u32 {
        match self {
            Self::Read => 0o4,
            Self::ReadWrite => 0o6,
            Self::Search => 0o1,
            Self::Fill => 0o7,
        }
    }
}

/// Who owns a file, and its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Owner {
    fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|file| Self { uid: file.uid(), gid: file.gid(), mode: file.mode() })
    }
}

/// A file or folder whose rights are in the way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Barred {
    pub(super) by: PathBuf,
    /// Such as `0660, owner 0:20`.
    pub(super) rights: String,
}

impl Account {
    /// `None` where there is no such user.
    pub(super) fn of_the_service() -> Option<Self> {
        Self::parse(NAME, &fs::read_to_string("/etc/passwd").ok()?, &fs::read_to_string("/etc/group").ok()?)
    }

    /// By `passwd(5)` and `group(5)`.
    fn parse(name: &str, passwd: &str, group: &str) -> Option<Self> {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let (uid, gid) = (field(line, 2)?.parse().ok()?, field(line, 3)?.parse().ok()?);
        let is_member = |line: &&str| field(line, 3).is_some_and(|members| members.split(',').any(|member| member == name));
        let others = group.lines().filter(is_member).filter_map(|line| field(line, 2)?.parse().ok());
        Some(Self { uid, gids: std::iter::once(gid).chain(others).collect() })
    }

    fn may(&self, want: Want, owner: Owner) -> bool {
        let shift = if self.uid == owner.uid {
            6
        } else if self.gids.contains(&owner.gid) {
            3
        } else {
            0
        };
        owner.mode >> shift & want.bits() == want.bits()
    }

    /// Whether it may reach a file that is there, through every folder, and do what it wants with it.
    pub(super) fn reach(&self, path: &Path, want: Want) -> Result<(), Barred> {
        let Ok(path) = path.canonicalize() else { return Ok(()) };
        let folders = path.ancestors().skip(1).map(|folder| (folder, Want::Search));
        for (path, want) in std::iter::once((path.as_path(), want)).chain(folders) {
            // What cannot be looked at is told by whoever opens it.
            let Ok(owner) = Owner::of(path) else { continue };
            if !self.may(want, owner) {
                let rights = format!("{:04o}, owner {}:{}", owner.mode & 0o7777, owner.uid, owner.gid);
                return Err(Barred { by: path.to_owned(), rights });
            }
        }
        Ok(())
    }
}

fn field(line: &str, number: usize) -> Option<&str> {
    line.split(':').nth(number)
}

/// Whether there is one.
pub(super) fn look(account: Option<&Account>) -> Look {
    match account {
        Some(account) => Look::good("account", format!("{NAME}, uid {}, groups {:?}", account.uid, account.gids)),
        None => Look::doubtful(
            "account",
            format!("there is no user {NAME}, so its rights cannot be looked at"),
            "install the package, or: systemd-sysusers",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const PASSWD: &str =
        "root:x:0:0::/root:/bin/sh\nfaregate2:x:7:7::/:\nfaregate:x:998:997:Fare gate:/var/lib/faregate:/sbin/nologin\n";
    const GROUP: &str = "root:x:0:\ndialout:x:20:faregate,tech\nfaregate:x:997:tech\nfaregate-x:x:30:faregate2\n";

    fn owned(uid: u32, gid: u32, mode: u32) -> Owner {
        Owner { uid, gid, mode: 0o020_000 | mode }
    }

    #[test]
    fn an_account_has_its_own_group_and_those_that_name_it() {
        assert_eq!(Account::parse("faregate", PASSWD, GROUP), Some(Account { uid: 998, gids: vec![997, 20] }));
        assert_eq!(Account::parse("nobody", PASSWD, GROUP), None);
    }

    #[test]
    fn the_first_class_that_fits_decides_even_when_another_would_allow() {
        let account = Account { uid: 998, gids: vec![997, 20] };
        assert!(account.may(Want::ReadWrite, owned(0, 20, 0o660)), "its second group");
        assert!(!account.may(Want::ReadWrite, owned(0, 0, 0o660)));
        assert!(!account.may(Want::ReadWrite, owned(0, 20, 0o606)), "a member of the group, which may not");
        assert!(!account.may(Want::Read, owned(998, 20, 0o077)), "the owner, who may not");
        assert!(account.may(Want::Read, owned(0, 0, 0o644)));
        assert!(!account.may(Want::ReadWrite, owned(0, 0, 0o644)));
    }

    #[test]
    fn a_folder_on_the_way_that_may_not_be_searched_is_named() {
        let stranger = Account { uid: 12_345_678, gids: vec![12_345_678] };
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("file"), "").unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        set(folder.path(), 0o711);
        set(&inner, 0o700);
        set(&inner.join("file"), 0o644);
        assert_eq!(stranger.reach(&inner.join("file"), Want::Read).unwrap_err().by, inner.canonicalize().unwrap());
        set(&inner, 0o711);
        assert_eq!(stranger.reach(&inner.join("file"), Want::Read), Ok(()));
        assert!(stranger.reach(&inner.join("file"), Want::ReadWrite).unwrap_err().rights.starts_with("0644, owner "));
    }
}
