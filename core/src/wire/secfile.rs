//! The security file's content and envelope as JSON, and every refusal of PROTOCOL 8 that needs no
//! key.

use super::json::{Json, Object, base64};
use crate::error::Malformed;
use crate::limits::{ITERATIONS, ITERATIONS_MAX, SECURITY_FILE_MAX};
use crate::secret::Secret;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use zeroize::Zeroize;

const VERSION: &str = "2.0";
const PROTOCOL: &str = "clawchat-file-v2";
const ALGORITHM: &str = "aes-256-gcm-pbkdf2";
const CIPHER: &str = "AES-256-GCM";
/// `signal` of the compromised protocol (SPEC 8.3).
pub const SIGNAL: &str = "CLAWCHAT_COMPROMISED_V2";
/// Longest `server_id` and `server_name`, bytes.
pub const SERVER_NAME_MAX: usize = 128;

/// Why a security file was refused (PROTOCOL 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRefusal {
    /// Not an envelope of SPEC 6.3, or over 64 KiB.
    NotAFile(Malformed),
    /// Over 64 KiB.
    TooLarge,
    /// GCM did not open it, and `checksum` says that the bytes were changed.
    Damaged,
    /// GCM did not open it, and `checksum` says that the bytes are whole.
    WrongKey,
    /// GCM did not open it, and there is no `checksum` to tell why.
    WrongKeyOrDamaged,
    /// It opened, but the content is not as SPEC 6.2 and PROTOCOL 8 say.
    Content(Malformed),
    /// Past `valid_until + grace_period`.
    Expired {
        /// `timestamp` of the file, `unix_s`.
        made: u64,
        /// `valid_until`, `unix_s`.
        until: u64,
    },
    /// More than 300 s before `valid_from`.
    NotYetValid {
        /// `valid_from`, `unix_s`.
        from: u64,
    },
}

impl fmt::Display for FileRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAFile(what) => write!(f, "not a ClawChat security file ({what})"),
            Self::TooLarge => write!(f, "over {SECURITY_FILE_MAX} bytes"),
            Self::Damaged => f.write_str("changed on the way (checksum does not match)"),
            Self::WrongKey => f.write_str("the bootstrap key does not open it"),
            Self::WrongKeyOrDamaged => f.write_str("wrong bootstrap key, or damaged"),
            Self::Content(what) => write!(f, "its content is wrong ({what})"),
            Self::Expired { .. } => f.write_str("expired"),
            Self::NotYetValid { .. } => f.write_str("not yet valid"),
        }
    }
}

impl core::error::Error for FileRefusal {}

/// Where a server's port is at each hour (PROTOCOL 5.2).
#[derive(Debug)]
pub struct PortSchedule {
    /// Key of the schedule.
    pub seed: Secret<32>,
    /// When slot 0 began, `unix_s`.
    pub origin: u64,
    /// Length of a slot, seconds, at least 1.
    pub interval: u64,
}

impl PortSchedule {
    /// A second copy.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self { seed: self.seed.duplicate(), origin: self.origin, interval: self.interval }
    }
}

/// Content of a security file (SPEC 6.2). Times in `unix_s`, durations in seconds.
#[derive(Debug)]
pub struct SecurityFile {
    /// The server's id, at most 128 bytes.
    pub server_id: String,
    /// The server's name, at most 128 bytes.
    pub server_name: String,
    /// IP address or host name.
    pub server_public_ip: String,
    /// The port at `timestamp`, 1..65535.
    pub server_udp_port: u16,
    /// Authenticates both sides.
    pub shared_secret: Secret<32>,
    /// Which bootstrap key opens the file.
    pub bootstrap_key_id: String,
    /// When the file was made.
    pub timestamp: u64,
    /// First second of validity.
    pub valid_from: u64,
    /// Last second of validity, before the grace period.
    pub valid_until: u64,
    /// When the next rotation is due.
    pub next_rotation: u64,
    /// Grace after `valid_until` and around port rotations.
    pub grace_period: u64,
    /// `host:port` of STUN servers.
    pub stun_servers: Vec<String>,
    /// How long a hello is repeated, 1..600.
    pub hole_punch_timeout: u64,
    /// Where the port is later.
    pub port_schedule: Option<PortSchedule>,
    /// How long a compromised signal waits for its ack, 1..600.
    pub response_timeout: u64,
}

impl SecurityFile {
    /// Reads the content. Unknown fields are ignored.
    ///
    /// # Errors
    /// [`FileRefusal::Content`]; times are judged by [`Self::check_time`].
    pub fn parse(json: &[u8]) -> Result<Self, FileRefusal> {
        let mut object = Object::parse(json).map_err(FileRefusal::Content)?;
        let file = Self::from_object(&object).map_err(FileRefusal::Content);
        object.zeroize();
        file
    }

    /// Reads the content from an object, which stays the caller's to wipe.
    ///
    /// # Errors
    /// [`Malformed::Field`].
    pub fn from_object(object: &Object) -> Result<Self, Malformed> {
        object.expect("version", VERSION)?;
        object.expect("protocol", PROTOCOL)?;
        let ciphers = object.list("supported_ciphers")?;
        if !ciphers.iter().any(|c| matches!(c, Json::Text(name) if name == CIPHER)) {
            return Err(Malformed::Field("supported_ciphers"));
        }
        let nat = object.object("nat_traversal")?;
        let compromised = object.object("compromised_protocol")?;
        compromised.text("signal")?;
        let port = u16::try_from(object.uint("server_udp_port")?).ok().filter(|port| *port > 0);
        let mut secret = object.bytes("shared_secret")?;
        Ok(Self {
            shared_secret: Secret::take(&mut secret),
            server_id: short(object, "server_id")?,
            server_name: short(object, "server_name")?,
            server_public_ip: object.text("server_public_ip")?.to_string(),
            server_udp_port: port.ok_or(Malformed::Field("server_udp_port"))?,
            bootstrap_key_id: object.text("bootstrap_key_id")?.to_string(),
            timestamp: object.uint("timestamp")?,
            valid_from: object.uint("valid_from")?,
            valid_until: object.uint("valid_until")?,
            next_rotation: object.uint("next_rotation")?,
            grace_period: object.uint("grace_period")?,
            stun_servers: stun_servers(nat)?,
            hole_punch_timeout: timeout(nat, "hole_punch_timeout")?,
            port_schedule: nat.optional("port_schedule", schedule)?,
            response_timeout: timeout(compromised, "response_timeout")?,
        })
    }

    /// A second copy.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self {
            server_id: self.server_id.clone(),
            server_name: self.server_name.clone(),
            server_public_ip: self.server_public_ip.clone(),
            server_udp_port: self.server_udp_port,
            shared_secret: self.shared_secret.duplicate(),
            bootstrap_key_id: self.bootstrap_key_id.clone(),
            timestamp: self.timestamp,
            valid_from: self.valid_from,
            valid_until: self.valid_until,
            next_rotation: self.next_rotation,
            grace_period: self.grace_period,
            stun_servers: self.stun_servers.clone(),
            hole_punch_timeout: self.hole_punch_timeout,
            port_schedule: self.port_schedule.as_ref().map(PortSchedule::duplicate),
            response_timeout: self.response_timeout,
        }
    }

    /// The content as a JSON object. It holds the secret as text: wipe it after use.
    #[must_use]
    pub fn to_object(&self) -> Object {
        let schedule = self.port_schedule.as_ref().map(|schedule| {
            Object::new()
                .with("seed", base64(schedule.seed.expose()))
                .with("origin", schedule.origin)
                .with("interval", schedule.interval)
        });
        let stun: Vec<Json> = self.stun_servers.iter().map(|s| s.as_str().into()).collect();
        let nat = Object::new()
            .with("stun_servers", stun)
            .with("hole_punch_timeout", self.hole_punch_timeout)
            .with_some("port_schedule", schedule);
        let compromised =
            Object::new().with("signal", SIGNAL).with("response_timeout", self.response_timeout);
        Object::new()
            .with("version", VERSION)
            .with("protocol", PROTOCOL)
            .with("server_id", self.server_id.as_str())
            .with("server_name", self.server_name.as_str())
            .with("server_public_ip", self.server_public_ip.as_str())
            .with("server_udp_port", u64::from(self.server_udp_port))
            .with("shared_secret", base64(self.shared_secret.expose()))
            .with("bootstrap_key_id", self.bootstrap_key_id.as_str())
            .with("timestamp", self.timestamp)
            .with("valid_from", self.valid_from)
            .with("valid_until", self.valid_until)
            .with("next_rotation", self.next_rotation)
            .with("grace_period", self.grace_period)
            .with("supported_ciphers", Json::List([CIPHER.into()].into()))
            .with("nat_traversal", nat)
            .with("compromised_protocol", compromised)
    }

    /// Judges the wall clock: `valid_from - 300 … valid_until + grace_period` (PROTOCOL 8).
    ///
    /// # Errors
    /// [`FileRefusal::Expired`], [`FileRefusal::NotYetValid`].
    pub fn check_time(&self, unix_s: u64) -> Result<(), FileRefusal> {
        if unix_s > self.valid_until.saturating_add(self.grace_period) {
            return Err(FileRefusal::Expired { made: self.timestamp, until: self.valid_until });
        }
        if unix_s.saturating_add(300) < self.valid_from {
            return Err(FileRefusal::NotYetValid { from: self.valid_from });
        }
        Ok(())
    }
}

fn short(object: &Object, key: &'static str) -> Result<String, Malformed> {
    let text = object.text(key)?;
    if text.len() <= SERVER_NAME_MAX { Ok(text.to_string()) } else { Err(Malformed::Field(key)) }
}

fn timeout(object: &Object, key: &'static str) -> Result<u64, Malformed> {
    let seconds = object.uint(key)?;
    if (1..=600).contains(&seconds) { Ok(seconds) } else { Err(Malformed::Field(key)) }
}

fn stun_servers(nat: &Object) -> Result<Vec<String>, Malformed> {
    let text = |item: &Json| match item {
        Json::Text(server) => Ok(server.clone()),
        _ => Err(Malformed::Field("stun_servers")),
    };
    nat.list("stun_servers")?.iter().map(text).collect()
}

fn schedule(nat: &Object, key: &'static str) -> Result<PortSchedule, Malformed> {
    let object = nat.object(key)?;
    let interval = object.uint("interval")?;
    if interval == 0 {
        return Err(Malformed::Field("interval"));
    }
    let origin = object.uint("origin")?;
    Ok(PortSchedule { seed: Secret::take(&mut object.bytes("seed")?), origin, interval })
}

/// The envelope around an encrypted content (SPEC 6.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Salt of PBKDF2.
    pub salt: [u8; 32],
    /// IV of AES-256-GCM.
    pub iv: [u8; 12],
    /// The encrypted content.
    pub ciphertext: Vec<u8>,
    /// GCM tag.
    pub tag: [u8; 16],
    /// Iterations of PBKDF2, 100,000..10,000,000.
    pub iterations: u32,
    /// When it was written, `unix_s`; of no meaning to readers.
    pub timestamp: u64,
    /// First 8 hex digits of SHA-256 over salt ‖ iv ‖ ciphertext ‖ tag, where the writer gave it.
    pub checksum: Option<String>,
}

impl Envelope {
    /// Reads an envelope.
    ///
    /// # Errors
    /// [`FileRefusal::TooLarge`], [`FileRefusal::NotAFile`].
    pub fn parse(bytes: &[u8]) -> Result<Self, FileRefusal> {
        if bytes.len() > SECURITY_FILE_MAX {
            return Err(FileRefusal::TooLarge);
        }
        Object::parse(bytes).and_then(|o| Self::from_object(&o)).map_err(FileRefusal::NotAFile)
    }

    fn from_object(object: &Object) -> Result<Self, Malformed> {
        object.expect("version", VERSION)?;
        object.expect("algorithm", ALGORITHM)?;
        let iterations = u32::try_from(object.uint("iterations")?).ok();
        let iterations = iterations.filter(|n| (ITERATIONS..=ITERATIONS_MAX).contains(n));
        let ciphertext = super::json::unbase64(object.text("ciphertext")?);
        let timestamp = match object.get("timestamp") {
            None | Some(Json::Fraction(_)) => 0,
            Some(Json::Int(secs)) => u64::try_from(*secs).unwrap_or(0),
            Some(_) => return Err(Malformed::Field("timestamp")),
        };
        Ok(Self {
            salt: object.bytes("salt")?,
            iv: object.bytes("iv")?,
            ciphertext: ciphertext.ok_or(Malformed::Field("ciphertext"))?,
            tag: object.bytes("tag")?,
            iterations: iterations.ok_or(Malformed::Field("iterations"))?,
            timestamp,
            checksum: object.optional("checksum", Object::text)?.map(ToString::to_string),
        })
    }

    /// The envelope as the bytes of a security file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Object::new()
            .with("version", VERSION)
            .with("salt", base64(&self.salt))
            .with("iv", base64(&self.iv))
            .with("ciphertext", base64(&self.ciphertext))
            .with("tag", base64(&self.tag))
            .with("algorithm", ALGORITHM)
            .with("iterations", u64::from(self.iterations))
            .with("timestamp", self.timestamp)
            .with_some("checksum", self.checksum.as_deref())
            .encode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::{Arbitrary, Gen, quickcheck};

    fn number(g: &mut Gen) -> u64 {
        u64::arbitrary(g) >> (11 + u8::arbitrary(g) % 53)
    }

    fn text(g: &mut Gen) -> String {
        let mut text = String::arbitrary(g);
        while text.len() > SERVER_NAME_MAX {
            text.pop();
        }
        text
    }

    #[derive(Clone, Debug)]
    struct Content(Object);

    impl Arbitrary for Content {
        fn arbitrary(g: &mut Gen) -> Self {
            let schedule = |g: &mut Gen| PortSchedule {
                seed: Secret::filled(|out| out.fill_with(|| u8::arbitrary(g))),
                origin: number(g),
                interval: number(g).max(1),
            };
            let file = SecurityFile {
                server_id: text(g),
                server_name: text(g),
                server_public_ip: String::arbitrary(g),
                server_udp_port: u16::arbitrary(g).max(1),
                shared_secret: Secret::filled(|out| out.fill_with(|| u8::arbitrary(g))),
                bootstrap_key_id: String::arbitrary(g),
                timestamp: number(g),
                valid_from: number(g),
                valid_until: number(g),
                next_rotation: number(g),
                grace_period: number(g),
                stun_servers: Vec::arbitrary(g),
                hole_punch_timeout: 1 + number(g) % 600,
                port_schedule: bool::arbitrary(g).then(|| schedule(g)),
                response_timeout: 1 + number(g) % 600,
            };
            Self(file.to_object())
        }
    }

    #[test]
    fn over_64_kib() {
        let envelope = Envelope {
            salt: [1; 32],
            iv: [2; 12],
            ciphertext: [3; 500].into(),
            tag: [4; 16],
            iterations: ITERATIONS,
            timestamp: 5,
            checksum: None,
        };
        let mut bytes = envelope.encode();
        // White space after an object is no part of it.
        bytes.resize(65_536, b' ');
        assert_eq!(Envelope::parse(&bytes), Ok(envelope));
        bytes.push(b' ');
        assert_eq!(Envelope::parse(&bytes), Err(FileRefusal::TooLarge));
    }

    quickcheck! {
        fn content_round_trip(content: Content) -> bool {
            let Content(object) = content;
            SecurityFile::parse(&object.encode()).is_ok_and(|file| file.to_object() == object)
        }

        /// Each field but the optional one is needed, and of its type.
        fn every_field_is_needed(content: Content) -> bool {
            let Content(object) = content;
            let names: Vec<_> = object.fields().map(|(name, _)| name.to_string()).collect();
            names.iter().all(|name| {
                let broken = object.clone().with(name, Json::Null);
                matches!(SecurityFile::from_object(&broken), Err(Malformed::Field(_)))
            })
        }

        fn envelope_round_trip(ciphertext: Vec<u8>, key: u64, iterations: u32, sum: bool) -> bool {
            let envelope = Envelope {
                salt: [key as u8; 32],
                iv: [(key >> 8) as u8; 12],
                ciphertext,
                tag: [(key >> 16) as u8; 16],
                iterations: ITERATIONS + iterations % (ITERATIONS_MAX - ITERATIONS + 1),
                timestamp: key >> 11,
                checksum: sum.then(|| "0123abcd".to_string()),
            };
            Envelope::parse(&envelope.encode()) == Ok(envelope)
        }

        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, content: Content, cut: usize) -> bool {
            let whole = content.0.encode();
            let part = &whole[..cut % whole.len()];
            let _ = (Envelope::parse(&bytes), SecurityFile::parse(&bytes), Envelope::parse(part));
            SecurityFile::parse(part).is_err()
        }
    }
}
