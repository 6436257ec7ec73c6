//! Wiping (PROTOCOL 7): overwrite, flush, unlink, flush the folder.

use super::{folder_of, sync_folder};
use std::fs::OpenOptions;
use std::io::{self, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Wipes a file. One that is not there is wiped already; a symbolic link is unlinked, not followed.
///
/// A file system that writes elsewhere (snapshots, journals, flash) may still hold old blocks.
///
/// # Errors
/// The operating system's; the file is unlinked even when it can't be overwritten.
pub fn wipe(path: &Path) -> io::Result<()> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let overwritten = if meta.is_file() { overwrite(path, meta.len()) } else { Ok(()) };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    overwritten?;
    let folder = folder_of(path);
    // Should the removal not last, then nothing but zeros comes back: it is wiped in any case.
    let _flushed = sync_folder(&folder).or_else(|_| sync_folder(&folder));
    Ok(())
}

/// Wipes a file and, where its name is a symbolic link, the file that it leads to.
///
/// # Errors
/// The first of the operating system's; the rest is wiped all the same.
pub fn wipe_through_links(path: &Path) -> io::Result<()> {
    let target = match std::fs::canonicalize(path) {
        Ok(target) => wipe(&target),
        // Not there, or a link to nothing.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    let link = wipe(path);
    target.and(link)
}

fn overwrite(path: &Path, size: u64) -> io::Result<()> {
    let open = || OpenOptions::new().write(true).open(path);
    let mut file = open().or_else(|error| {
        // Write-protected by its owner, who may lift that.
        let rights = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path, rights).map_err(|_| error).and_then(|()| open())
    })?;
    let zeros = [0; 4096];
    let mut left = size;
    file.rewind()?;
    while left > 0 {
        let count = left.min(zeros.len() as u64);
        file.write_all(&zeros[..usize::try_from(count).unwrap_or(zeros.len())])?;
        left -= count;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::faults;

    #[test]
    fn overwrites_what_another_name_still_shows() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&path, [7; 5000]).unwrap();
        std::fs::hard_link(&path, &other).unwrap();
        wipe(&path).unwrap();
        assert!(!path.exists());
        assert_eq!(std::fs::read(&other).unwrap(), [0; 5000]);
        wipe(&path).unwrap();
    }

    #[test]
    fn a_link_does_not_save_what_it_leads_to() {
        let folder = tempfile::tempdir().unwrap();
        let name = |name: &str| folder.path().join(name);
        let (real, other) = (name("real"), name("other"));
        std::fs::write(&real, [7; 10]).unwrap();
        std::fs::hard_link(&real, &other).unwrap();
        std::os::unix::fs::symlink("real", name("near")).unwrap();
        std::os::unix::fs::symlink(name("near"), name("far")).unwrap();
        wipe_through_links(&name("far")).unwrap();
        assert!(!real.exists() && std::fs::symlink_metadata(name("far")).is_err());
        assert_eq!(std::fs::read(&other).unwrap(), [0; 10]);
        wipe_through_links(&name("near")).unwrap();
        assert!(std::fs::symlink_metadata(name("near")).is_err(), "a link to nothing goes too");
        wipe_through_links(&name("near")).unwrap();
        std::os::unix::fs::symlink("loop", name("loop")).unwrap();
        assert!(wipe_through_links(&name("loop")).is_err(), "it may lead anywhere");
        assert!(std::fs::symlink_metadata(name("loop")).is_err());
    }

    #[test]
    fn what_is_overwritten_and_gone_is_wiped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, [7; 10]).unwrap();
        faults::fail_syncs(2);
        wipe(&path).unwrap();
        assert!(!path.exists());
    }
}
