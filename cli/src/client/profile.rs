//! Profiles: a security file and its key, kept private, so that a person carries each once.

use super::args::Common;
use super::open;
use crate::disk;
use crate::failure::{Exit, Failure, Outcome};
use crate::text::{complain, event, moment, one_line, print};
use clawchat_core::wire::message::is_name;
use std::path::{Path, PathBuf};

/// Where a profile's files are.
#[derive(Debug)]
pub(super) struct Profile {
    folder: PathBuf,
    pub(super) sec: PathBuf,
    pub(super) key: PathBuf,
}

fn locate(name: &str) -> Outcome<Profile> {
    if !is_name(name) {
        let what = format!("`{}` is no profile name: a-z 0-9 . _ -", one_line(name));
        return Err(Failure::new(Exit::Usage, what));
    }
    let home = directories::BaseDirs::new().ok_or_else(|| {
        Failure::new(Exit::Config, "there is no home folder for profiles")
            .advice("pass --sec FILE --key-file FILE")
    })?;
    let folder = home.data_dir().join("clawchat").join("profiles").join(name);
    let (sec, key) = (folder.join("security.sec"), folder.join("bootstrap.key"));
    Ok(Profile { folder, sec, key })
}

/// A profile that was made before.
pub(super) fn find(name: &str) -> Outcome<Profile> {
    let profile = locate(name)?;
    if !profile.sec.exists() {
        let what = format!("there is no security file in profile `{name}`, and none was named");
        return Err(Failure::new(Exit::NoSuchFile, what)
            .advice("clawchat open FILE.sec, or pass --sec FILE --key-file FILE"));
    }
    disk::check_private(&profile.sec)?;
    disk::check_private(&profile.key)?;
    Ok(profile)
}

/// `open`: takes a carried file into a profile.
pub(super) fn open(common: &Common, file: &Path) -> Outcome<()> {
    let profile = locate(&common.profile)?;
    let opened = open::read(common, file, None)?;
    disk::make_private_folder(&profile.folder)?;
    // A crash in the midst of this may have left the key here; it is of no use to anybody honest.
    if disk::wipe_temporary_of(&profile.key).is_err() && !common.quiet {
        complain(&format!("note: delete the files .tmp-* in {}", profile.folder.display()));
    }
    let key = zeroize::Zeroizing::new(format!("{}\n", opened.key.to_base64().as_str()));
    disk::write_private(&profile.key, key.as_bytes(), true)?;
    disk::write_private(&profile.sec, &opened.bytes, true)?;
    let name = one_line(&opened.file.server_name);
    if common.json {
        print(
            &event("opened")
                .with("profile", common.profile.as_str())
                .with("server_name", opened.file.server_name.as_str())
                .with("valid_until", opened.file.valid_until),
        );
    } else if !common.quiet {
        let until = moment(opened.file.valid_until);
        complain(&format!("opened: {name}, first connection until {until}"));
        if file.as_os_str() != "-" {
            complain(&format!("the carried file is no longer needed: shred -u {}", file.display()));
        }
        complain("next: clawchat chat");
    }
    Ok(())
}
