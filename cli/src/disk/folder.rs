//! Folders that are sent: what is in them, and what of that is sent.

use super::manifest::{order, path_fits};
use super::place::invalid;
use super::source::unfit;
use clawchat_core::wire::message::is_file_name;
use core::fmt;
use rustix::fs::Access;
use std::fs::{DirEntry, ReadDir};
use std::io;
use std::path::{Path, PathBuf};

pub use super::manifest::{ENTRIES_MAX, MANIFEST_MAX, Manifest, ManifestFile};

/// What is in a folder and below, each list in the order of its paths.
#[derive(Debug)]
pub struct Walked {
    /// The folder's own name.
    pub name: String,
    /// Files to send.
    pub files: Vec<WalkedFile>,
    /// Folders in which nothing is that is sent; relative paths. Those of files go without saying.
    pub folders: Vec<String>,
    /// What is not sent. Of a folder, all that is in it.
    pub skipped: Vec<Skipped>,
}

/// A file in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkedFile {
    /// Its path from the folder on, with `/`.
    pub path: String,
    /// Where it is.
    pub source: PathBuf,
    /// Its size, bytes, which may change until it is opened.
    pub size: u64,
}

/// Something that is not sent.
#[derive(Debug)]
pub struct Skipped {
    /// Where it is.
    pub path: PathBuf,
    /// Why.
    pub why: Skip,
}

/// Why something in a folder is not sent.
#[derive(Debug)]
pub enum Skip {
    /// It is neither a file nor a folder, but what this says: `a symbolic link`.
    Kind(&'static str),
    /// It can't be read.
    Unreadable(io::Error),
    /// A receiver would refuse its name (PROTOCOL 5.6).
    Name,
    /// Its path is too long.
    Long,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(what) => f.write_str(what),
            Self::Unreadable(error) => write!(f, "cannot be read: {}", super::plain(error)),
            Self::Name => f.write_str("its name can't be used on every system"),
            Self::Long => f.write_str("its path is too long"),
        }
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.why)
    }
}

/// Looks at all that is in a folder, and follows no link.
///
/// # Errors
/// `InvalidInput` when it is no folder, when its name is none that a receiver takes, or with more than
/// 100,000 entries; the operating system's for the folder itself.
pub fn walk(path: &Path) -> io::Result<Walked> {
    let meta = std::fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        let what = unfit(&meta).unwrap_or("a file");
        return Err(invalid(format!("{} is {what}, no folder", path.display())));
    }
    let mut walk = Walk::default();
    walk.folder(Folder { path: path.to_owned(), inside: String::new() }, std::fs::read_dir(path)?)?;
    while let Some(folder) = walk.ahead.pop() {
        match std::fs::read_dir(&folder.path) {
            Ok(entries) => {
                walk.read.push(folder.inside.clone());
                walk.folder(folder, entries)?;
            }
            Err(error) => walk.skip(folder.path, Skip::Unreadable(error)),
        }
    }
    Ok(walk.done(name_of(path)?))
}

/// The name of a folder that may be given as `.` or `..`.
fn name_of(path: &Path) -> io::Result<String> {
    let full = match path.file_name() {
        Some(_) => path.to_owned(),
        None => std::fs::canonicalize(path)?,
    };
    let name = full.file_name().and_then(|name| name.to_str()).filter(|name| is_file_name(name));
    name.map(Into::into)
        .ok_or_else(|| invalid(format!("a receiver would refuse the name of {}", full.display())))
}

/// A folder: where it is, and its path from the first one on.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    inside: String,
}

/// A walk under way.
#[derive(Debug, Default)]
struct Walk {
    files: Vec<WalkedFile>,
    /// Folders that were read, but for the first.
    read: Vec<String>,
    skipped: Vec<Skipped>,
    /// Folders to read. Instead of recursion: a person may have nested them without end.
    ahead: Vec<Folder>,
    entries: usize,
}

impl Walk {
    fn skip(&mut self, path: PathBuf, why: Skip) {
        self.skipped.push(Skipped { path, why });
    }

    fn folder(&mut self, folder: Folder, entries: ReadDir) -> io::Result<()> {
        for entry in entries {
            match entry {
                Ok(entry) => self.entry(&folder.inside, &entry),
                // The rest of it can't be had.
                Err(error) => {
                    self.skip(folder.path, Skip::Unreadable(error));
                    return Ok(());
                }
            }
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(invalid(format!("more than {ENTRIES_MAX} files in one folder")));
            }
        }
        Ok(())
    }

    fn entry(&mut self, folder: &str, entry: &DirEntry) {
        let path = entry.path();
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| is_file_name(name)) else {
            return self.skip(path, Skip::Name);
        };
        let inside = if folder.is_empty() { name.into() } else { format!("{folder}/{name}") };
        if !path_fits(&inside) {
            return self.skip(path, Skip::Long);
        }
        // Of a link, not of what it leads to.
        let meta = match entry.metadata() {
            Err(error) => return self.skip(path, Skip::Unreadable(error)),
            Ok(meta) => meta,
        };
        if meta.is_dir() {
            return self.ahead.push(Folder { path, inside });
        }
        if let Some(what) = unfit(&meta) {
            return self.skip(path, Skip::Kind(what));
        }
        // Better said now than when its turn comes.
        match rustix::fs::access(&path, Access::READ_OK) {
            Err(error) => self.skip(path, Skip::Unreadable(error.into())),
            Ok(()) => {
                self.files.push(WalkedFile { path: inside, source: path, size: meta.len() });
            }
        }
    }

    fn done(mut self, name: String) -> Walked {
        self.files.sort_by(|a, b| order(&a.path, &b.path));
        self.skipped.sort_by(|a, b| a.path.cmp(&b.path));
        self.read.sort_by(|a, b| order(a, b));
        let folders = self.empty_folders();
        Walked { name, files: self.files, folders, skipped: self.skipped }
    }

    /// Of the folders that were read those without a file or such a folder in them. In order, what is in a
    /// folder comes right after it.
    fn empty_folders(&self) -> Vec<String> {
        let inside = |folder: &str, path: Option<&str>| {
            path.and_then(|path| path.strip_prefix(folder))
                .is_some_and(|rest| rest.starts_with('/'))
        };
        let mut empty = Vec::new();
        for (at, folder) in self.read.iter().enumerate() {
            let next = self.read.get(at + 1).map(String::as_str);
            let file = self.files.partition_point(|file| order(&file.path, folder).is_lt());
            let file = self.files.get(file).map(|file| file.path.as_str());
            if !inside(folder, next) && !inside(folder, file) {
                empty.push(folder.clone());
            }
        }
        empty
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FileType, Mode};
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    fn tree() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("thesis");
        fs::create_dir_all(root.join("a/deep/er")).unwrap();
        (folder, root)
    }

    fn paths(walked: &Walked) -> Vec<&str> {
        walked.files.iter().map(|file| file.path.as_str()).collect()
    }

    #[test]
    fn files_and_empty_folders_in_order() {
        let (_folder, root) = tree();
        for folder in ["empty", "a/empty", "a.b", "only/folders"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in ["z", "a/deep/er/x", "a/b", "a.b/c", "a-b", "empty.txt"] {
            fs::write(root.join(file), file).unwrap();
        }
        let walked = walk(&root).unwrap();
        assert_eq!(walked.name, "thesis");
        assert_eq!(paths(&walked), ["a/b", "a/deep/er/x", "a-b", "a.b/c", "empty.txt", "z"]);
        assert_eq!(walked.folders, ["a/empty", "empty", "only/folders"]);
        assert!(walked.skipped.is_empty());
        let first = &walked.files[0];
        assert_eq!((first.size, &first.source), (3, &root.join("a/b")));
        let dotted = walk(&root.join("a/..")).unwrap();
        assert_eq!((dotted.name.as_str(), dotted.files.len()), ("thesis", 6));
        let empty = walk(&root.join("empty")).unwrap();
        assert!(empty.files.is_empty() && empty.folders.is_empty());
    }

    #[test]
    fn what_is_not_sent_is_named() {
        let (_folder, root) = tree();
        fs::write(root.join("a/file"), "x").unwrap();
        std::os::unix::fs::symlink("..", root.join("a/loop")).unwrap();
        std::os::unix::fs::symlink("file", root.join("a/link")).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), FileType::Fifo, mode, 0).unwrap();
        let _listener = UnixListener::bind(root.join("socket")).unwrap();
        for bad in ["nul.txt", "with:colon", "trailing.", "line\nbreak"] {
            fs::write(root.join(bad), "x").unwrap();
        }
        fs::create_dir(root.join("con")).unwrap();
        fs::write(root.join("con/file"), "x").unwrap();
        fs::write(root.join(OsStr::from_bytes(b"not\xfftext")), "x").unwrap();
        let walked = walk(&root).unwrap();
        assert_eq!(paths(&walked), ["a/file"]);
        assert_eq!(walked.folders, ["a/deep/er"]);
        let end = |skipped: &Skipped| {
            let path = skipped.path.strip_prefix(&root).unwrap();
            format!("{}: {}", path.to_string_lossy().escape_debug(), skipped.why)
        };
        let name = "its name can't be used on every system";
        let expected = [
            "a/link: a symbolic link".to_owned(),
            "a/loop: a symbolic link".into(),
            format!("con: {name}"),
            format!("line\\nbreak: {name}"),
            format!("not\u{fffd}text: {name}"),
            format!("nul.txt: {name}"),
            "pipe: a pipe".into(),
            "socket: a socket".into(),
            format!("trailing.: {name}"),
            format!("with:colon: {name}"),
        ];
        assert_eq!(walked.skipped.iter().map(end).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_can_not_be_read() {
        let (_folder, root) = tree();
        fs::write(root.join("file"), "x").unwrap();
        for closed in ["file", "a/deep"] {
            fs::set_permissions(root.join(closed), fs::Permissions::from_mode(0o000)).unwrap();
        }
        let walked = walk(&root).unwrap();
        // Root may read everything.
        if rustix::process::geteuid().is_root() {
            assert_eq!((paths(&walked), walked.skipped.len()), (vec!["file"], 0));
        } else {
            let skipped: Vec<_> = walked.skipped.iter().map(ToString::to_string).collect();
            assert!(
                skipped.iter().all(|line| line.ends_with(": cannot be read: Permission denied"))
            );
            assert_eq!((skipped.len(), &*walked.folders), (2, &["a".to_owned()][..]));
        }
        fs::set_permissions(root.join("a/deep"), fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn deep_beyond_what_a_path_holds() {
        let (_folder, root) = tree();
        let name = "d".repeat(250);
        let mut at = rustix::fs::open(
            &root,
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY,
            Mode::empty(),
        )
        .unwrap();
        for _ in 0..20 {
            rustix::fs::mkdirat(&at, &*name, Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, &*name, rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
        }
        let walked = walk(&root).unwrap();
        assert_eq!(walked.skipped.len(), 1, "{:?}", walked.skipped);
        let deepest = &walked.folders[1];
        assert!(deepest.len() > 3000 && path_fits(deepest));
    }

    #[test]
    fn folders_only() {
        let (_folder, root) = tree();
        fs::write(root.join("file"), "x").unwrap();
        std::os::unix::fs::symlink("thesis", root.join("../link")).unwrap();
        for (path, what) in [("file", "a file"), ("../link", "a symbolic link")] {
            let error = walk(&root.join(path)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().ends_with(&format!(" is {what}, no folder")), "{error}");
        }
        assert_eq!(walk(&root.join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::create_dir(root.join("nul")).unwrap();
        let error = walk(&root.join("nul")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn bounded() {
        let (_folder, root) = tree();
        let mut walk = Walk { entries: ENTRIES_MAX - 1, ..Walk::default() };
        let folder = || Folder { path: root.clone(), inside: String::new() };
        walk.folder(folder(), fs::read_dir(&root).unwrap()).unwrap();
        let error = walk.folder(folder(), fs::read_dir(&root).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "more than 100000 files in one folder");
    }
}
