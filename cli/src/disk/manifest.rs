//! What a folder that is sent consists of: told in one file, so that many small files need no question
//! each, and empty folders arrive too.

use super::folder::Walked;
use super::place::{first_free, invalid, numbered_folder};
use super::{folder_of, sync_folder};
use crate::process::left_by_umask;
use clawchat_core::id::ChatId;
use clawchat_core::wire::json::{Json, Object};
use clawchat_core::wire::message::{hex, is_file_name};
use core::cmp::Ordering;
use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Most files and folders of a folder that is sent.
pub const ENTRIES_MAX: usize = 100_000;
/// Longest encoded manifest, bytes.
pub const MANIFEST_MAX: usize = 16 << 20;
/// Longest path in it, bytes: what systems take.
const PATH_MAX: usize = 4096;

/// What a folder consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Its name, for which PROTOCOL 5.6 holds.
    pub name: String,
    /// Folders in it that are in no path of a file: relative, with `/`.
    pub folders: Vec<String>,
    /// Its files.
    pub files: Vec<ManifestFile>,
}

/// A file of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    /// Its path from the folder on, with `/`.
    pub path: String,
    /// The id of its offer (PROTOCOL 5.6).
    pub id: [u8; 16],
    /// Its size, bytes, under 2^53.
    pub size: u64,
}

impl Manifest {
    /// That of a folder which was walked, with an id of `id` for each file.
    #[must_use]
    pub fn of(walked: &Walked, mut id: impl FnMut() -> [u8; 16]) -> Self {
        let files = walked.files.iter();
        Self {
            name: walked.name.clone(),
            folders: walked.folders.clone(),
            files: files
                .map(|file| ManifestFile { path: file.path.clone(), id: id(), size: file.size })
                .collect(),
        }
    }

    /// As JSON. With very long paths it may exceed [`MANIFEST_MAX`], and then nobody takes it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let file = |file: &ManifestFile| {
            Object::new()
                .with("path", file.path.as_str())
                .with("id", hex(&file.id))
                .with("size", file.size)
                .into()
        };
        let folders = self.folders.iter().map(|path| Json::from(path.as_str()));
        Object::new()
            .with("schema", 1)
            .with("name", self.name.as_str())
            .with("folders", folders.collect::<Vec<Json>>())
            .with("files", self.files.iter().map(file).collect::<Vec<Json>>())
            .encode()
    }

    /// The same, as it is sent.
    ///
    /// # Errors
    /// `InvalidInput` for one that no receiver would take: with more than 100,000 entries, the folders of files
    /// among them, or 16 MiB.
    pub fn to_send(&self) -> io::Result<Vec<u8>> {
        let list = self.encode();
        match Self::parse(&list) {
            Some(_) => Ok(list),
            None => Err(invalid(format!(
                "more is in {} than one list holds: send the folders in it one by one",
                self.name
            ))),
        }
    }

    /// Reads one that somebody sent; `None` when it is malformed, or would do harm: see
    /// [`Self::is_safe`].
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MANIFEST_MAX {
            return None;
        }
        let object = Object::parse(bytes).ok()?;
        if object.uint("schema") != Ok(1) {
            return None;
        }
        let folder = |item: &Json| match item {
            Json::Text(path) => Some(path.clone()),
            _ => None,
        };
        let file = |item: &Json| match item {
            Json::Object(file) => Some(ManifestFile {
                path: file.text("path").ok()?.into(),
                id: ChatId::parse(file.text("id").ok()?)?.0,
                size: file.uint("size").ok()?,
            }),
            _ => None,
        };
        let manifest = Self {
            name: object.text("name").ok()?.into(),
            folders: object.list("folders").ok()?.iter().map(folder).collect::<Option<_>>()?,
            files: object.list("files").ok()?.iter().map(file).collect::<Option<_>>()?,
        };
        manifest.is_safe().then_some(manifest)
    }

    /// Whether the folder can be made as it says, within a folder of its own: every component of every
    /// path is a name that PROTOCOL 5.6 allows, no path or id comes twice, nothing is below a file, and
    /// all folders and files together are at most 100,000.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        let ids: BTreeSet<_> = self.files.iter().map(|file| file.id).collect();
        is_file_name(&self.name) && ids.len() == self.files.len() && self.entries().is_some()
    }

    /// All folders and files, a folder before what is in it; `None` when they can't be.
    fn entries(&self) -> Option<Vec<Entry<'_>>> {
        let folders = self.folders.iter().map(|path| Entry { path, is_file: false });
        let files = self.files.iter().map(|file| Entry { path: &file.path, is_file: true });
        let mut paths: Vec<_> = folders.chain(files).collect();
        let is_path = |path: &str| path_fits(path) && path.split('/').all(is_file_name);
        if paths.len() > ENTRIES_MAX || !paths.iter().all(|entry| is_path(entry.path)) {
            return None;
        }
        paths.sort_by(|a, b| order(a.path, b.path));
        let (mut entries, mut last) = (Vec::new(), Entry { path: "", is_file: false });
        for entry in paths {
            // In this order, what is below a path follows it at once: so looking at one before is enough.
            let start = unshared(last.path, entry.path);
            if entry.path == last.path || last.is_file && start > last.path.len() {
                return None;
            }
            let slashes = entry.path[start..].match_indices('/');
            let above = slashes.map(|(at, _)| &entry.path[..start + at]);
            entries.extend(above.map(|path| Entry { path, is_file: false }));
            entries.push(entry);
            if entries.len() > ENTRIES_MAX {
                return None;
            }
            last = entry;
        }
        Some(entries)
    }

    /// Makes the folder, and all folders in it, within `into`: `name`, or `name (2)` and so on where that
    /// is taken, each of which `before` hears of before it is tried. They have the permissions that the
    /// user's umask leaves of 0755. Where that fails, what was made is removed.
    ///
    /// # Errors
    /// `InvalidInput` unless [`Self::is_safe`]; the operating system's, and those of `before`.
    pub fn make_folders(
        &self,
        into: &Path,
        mut before: impl FnMut(&Path) -> io::Result<()>,
    ) -> io::Result<PathBuf> {
        let folders = self.folders_in()?;
        let make = |root: &Path| {
            if std::fs::symlink_metadata(root).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            before(root).and_then(|()| make_folder(root))
        };
        let root = first_free(into, &self.name, numbered_folder, make)?;
        let mut made = vec![root.clone()];
        for folder in folders {
            let path = root.join(folder);
            if let Err(error) = make_folder(&path) {
                // Only what is empty can go, so nothing goes that is not ours.
                made.iter().rev().for_each(|path| drop(std::fs::remove_dir(path)));
                return Err(error);
            }
            made.push(path);
        }
        let parents: BTreeSet<_> = made.iter().map(|path| folder_of(path)).collect();
        for parent in parents {
            // They are there, in any case. What comes into them is flushed for itself.
            let _flushed = sync_folder(&parent);
        }
        Ok(root)
    }

    /// Makes what a crash left out of the folders of `root`.
    ///
    /// # Errors
    /// `InvalidInput` unless [`Self::is_safe`]; the operating system's.
    pub fn finish_folders(&self, root: &Path) -> io::Result<()> {
        let folders = self.folders_in()?.into_iter().map(|folder| root.join(folder));
        for path in core::iter::once(root.to_owned()).chain(folders) {
            match make_folder(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
        }
        Ok(())
    }

    /// All folders in it, each before what is in it.
    fn folders_in(&self) -> io::Result<Vec<&str>> {
        let entries = self.entries().filter(|_| self.is_safe());
        let entries = entries.ok_or_else(|| invalid("this folder can't be made safely"))?;
        let folders = entries.into_iter().filter(|entry| !entry.is_file);
        Ok(folders.map(|entry| entry.path).collect())
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry<'a> {
    path: &'a str,
    is_file: bool,
}

/// Makes one folder that is not there.
fn make_folder(path: &Path) -> io::Result<()> {
    std::fs::create_dir(path)?;
    match std::fs::set_permissions(path, Permissions::from_mode(left_by_umask(0o755))) {
        // The folder is ours, so it is the file system that has no permissions.
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether a path is short enough to be made anywhere.
pub(super) const fn path_fits(path: &str) -> bool {
    path.len() <= PATH_MAX
}

/// The order of paths in which everything in a folder comes right after it: the separator is lowest.
pub(super) fn order(a: &str, b: &str) -> Ordering {
    // No name holds a zero.
    let key = |byte| if byte == b'/' { 0 } else { byte };
    a.bytes().map(key).cmp(b.bytes().map(key))
}

/// Where in `path` the first component begins that is not also in `last`, the path before it in order.
fn unshared(last: &str, path: &str) -> usize {
    let same = last.bytes().zip(path.bytes()).take_while(|(a, b)| a == b).count();
    if same == last.len() && path.as_bytes().get(same) == Some(&b'/') {
        return same + 1;
    }
    path.as_bytes()[..same].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;
    use std::fs;

    fn file(path: &str, id: u128) -> ManifestFile {
        ManifestFile { path: path.into(), id: id.to_be_bytes(), size: 7 }
    }

    fn manifest(folders: &[&str], files: &[&str]) -> Manifest {
        let files = files.iter().zip(1..).map(|(path, id)| file(path, id)).collect();
        let folders = folders.iter().map(|path| (*path).to_owned()).collect();
        Manifest { name: "thesis".into(), folders, files }
    }

    /// What is safe, in the plainest words.
    fn plainly_safe(manifest: &Manifest) -> bool {
        let files: Vec<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
        let mut all: Vec<&str> = manifest.folders.iter().map(String::as_str).collect();
        all.extend(&files);
        let distinct: BTreeSet<_> = all.iter().collect();
        let names = all.iter().flat_map(|path| path.split('/')).all(is_file_name);
        let below = |path: &str, file: &str| path.starts_with(&format!("{file}/"));
        names
            && distinct.len() == all.len()
            && !all.iter().any(|path| files.iter().any(|file| below(path, file)))
    }

    fn some_path(parts: &[u8]) -> String {
        let words = ["a", "b", "a.b", "a-b", "a b", "é", "..", ""];
        let word = |part: &u8| words[usize::from(*part) % if *part > 250 { 8 } else { 6 }];
        parts.iter().take(4).map(word).collect::<Vec<_>>().join("/")
    }

    fn borrow(list: &[String]) -> Vec<&str> {
        list.iter().map(String::as_str).collect()
    }

    quickcheck! {
        fn safe_or_not(folders: Vec<Vec<u8>>, files: Vec<Vec<u8>>) -> bool {
            let folders: Vec<_> = folders.iter().take(6).map(|parts| some_path(parts)).collect();
            let files: Vec<_> = files.iter().take(6).map(|parts| some_path(parts)).collect();
            let manifest = manifest(&borrow(&folders), &borrow(&files));
            let read = Manifest::parse(&manifest.encode());
            read == plainly_safe(&manifest).then_some(manifest)
        }

        fn arbitrary_names_never_panic(name: String, path: String) -> bool {
            let mut manifest = manifest(&[], &[&path]);
            manifest.name = name;
            Manifest::parse(&manifest.encode()).is_some() == manifest.is_safe()
        }
    }

    #[test]
    fn round_trip() {
        let manifest = manifest(&["empty", "a/empty"], &["a/b", "ü/日本語", "a.b"]);
        let bytes = manifest.encode();
        assert_eq!(Manifest::parse(&bytes), Some(manifest));
        let none = Manifest { name: "x".into(), ..Manifest::default() };
        assert_eq!(none.encode(), br#"{"files":[],"folders":[],"name":"x","schema":1}"#);
        assert_eq!(Manifest::parse(&none.encode()), Some(none));
    }

    #[test]
    fn what_would_do_harm() {
        let long = ["d"; 2049].join("/");
        let cases: [(&[&str], &[&str]); 17] = [
            (&[], &["/etc/passwd"]),
            (&[], &["../x"]),
            (&[], &["a/../../x"]),
            (&[], &["./a"]),
            (&[], &["a//b"]),
            (&[], &["a/"]),
            (&[], &[""]),
            (&["a\\b"], &[]),
            (&["C:"], &[]),
            (&[], &["a/nul.txt"]),
            (&[], &["a\u{202e}b"]),
            (&[], &["a", "a"]),
            (&["a"], &["a"]),
            (&["a", "a"], &[]),
            (&[], &["a", "a-b", "a/b"]),
            (&["a/b/c"], &["a/b"]),
            (&[&long], &[]),
        ];
        for (folders, files) in cases {
            let manifest = manifest(folders, files);
            assert_eq!(Manifest::parse(&manifest.encode()), None, "{folders:?} {files:?}");
            assert!(manifest.make_folders(Path::new("/nonexistent"), |_| Ok(())).is_err());
        }
        let mut twice = manifest(&[], &["a", "b"]);
        twice.files[1].id = twice.files[0].id;
        assert!(!twice.is_safe());
        let mut named = manifest(&[], &["a"]);
        for name in ["..", "", "a/b", "nul", "/"] {
            named.name = name.into();
            assert_eq!(Manifest::parse(&named.encode()), None, "{name}");
        }
    }

    #[test]
    fn malformed() {
        let good =
            r#"{"files":[{"id":"ID","path":"a","size":1}],"folders":["b"],"name":"x","schema":1}"#;
        let good = good.replace("ID", &"ab".repeat(16));
        assert!(Manifest::parse(good.as_bytes()).is_some());
        for (from, to) in [
            ("schema\":1", "schema\":2"),
            ("\"name\":\"x\",", ""),
            ("[\"b\"]", "[1]"),
            ("[\"b\"]", "\"b\""),
            ("\"size\":1", "\"size\":-1"),
            ("\"size\":1", "\"size\":9007199254740992"),
            ("abab", "AB"),
            ("\"path\":\"a\",", ""),
        ] {
            let bad = good.replacen(from, to, 1);
            assert!(bad != good && Manifest::parse(bad.as_bytes()).is_none(), "{bad}");
        }
        let more = good.replace("\"schema\"", "\"later\":[],\"schema\"");
        assert!(Manifest::parse(more.as_bytes()).is_some(), "fields are only ever added");
    }

    #[test]
    fn bounded() {
        let many = |count: usize| {
            let files = (0..count).map(|at| file(&format!("f/{at}"), at as u128));
            Manifest { files: files.collect(), ..manifest(&[], &[]) }
        };
        assert!(Manifest::parse(&many(ENTRIES_MAX - 1).encode()).is_some(), "and their folder");
        assert!(Manifest::parse(&many(ENTRIES_MAX).encode()).is_none());
        // Few paths, but many folders.
        let deep = |at: usize| format!("{at}{}", "/d".repeat(1000));
        let folders: Vec<String> = (0..101).map(deep).collect();
        assert!(Manifest { folders, ..manifest(&[], &[]) }.entries().is_none());
        let mut padded = manifest(&[], &[]).encode();
        padded.resize(MANIFEST_MAX, b' ');
        assert!(Manifest::parse(&padded).is_some());
        padded.push(b' ');
        assert!(Manifest::parse(&padded).is_none());
        assert!(many(3).to_send().is_ok() && many(ENTRIES_MAX).to_send().is_err());
        let long = |at: usize| format!("{at}{}", &*"n".repeat(250));
        let files = (0..60_000).map(|at| file(&long(at), at as u128)).collect();
        let error = Manifest { files, ..manifest(&[], &[]) }.to_send().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn made_beside_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("thesis")).unwrap();
        let manifest = manifest(&["empty/er", "a"], &["a/b/c", "d"]);
        let root = manifest.make_folders(folder.path(), |_| Ok(())).unwrap();
        assert_eq!(root, folder.path().join("thesis (2)"));
        for made in ["empty/er", "a/b"] {
            let meta = fs::metadata(root.join(made)).unwrap();
            assert!(meta.is_dir());
            assert_eq!(meta.permissions().mode() & 0o777, left_by_umask(0o755));
        }
        assert!(!root.join("a/b/c").exists() && !root.join("d").exists(), "files come later");
        assert_eq!(fs::read_dir(folder.path().join("thesis")).unwrap().count(), 0);
        let walked = crate::disk::folder::walk(&root).unwrap();
        let mut next = 0_u8;
        let again = Manifest::of(&walked, || {
            next += 1;
            [next; 16]
        });
        assert_eq!(
            (again.name.as_str(), &*again.folders),
            ("thesis (2)", &["a/b".into(), "empty/er".to_owned()][..])
        );
    }

    #[test]
    fn what_a_crash_left_out_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("thesis");
        let manifest = manifest(&["empty/er"], &["a/b/c"]);
        for _ in 0..2 {
            manifest.finish_folders(&root).unwrap();
            assert!(root.join("empty/er").is_dir() && root.join("a/b").is_dir());
            fs::remove_dir(root.join("a/b")).unwrap();
        }
    }

    #[test]
    fn made_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        // Too long once it is below a folder.
        let long = [&*"d".repeat(255); 16].join("/");
        let manifest = manifest(&["a/b", &long], &[]);
        assert!(manifest.is_safe());
        manifest.make_folders(folder.path(), |_| Ok(())).unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(manifest.make_folders(&folder.path().join("none"), |_| Ok(())).is_err());
    }
}
