use super::*;
use alloc::vec;
use quickcheck::{Arbitrary, Gen, quickcheck};

fn a_name(g: &mut Gen) -> String {
    let letters: Vec<char> = "abcxyz019._-".chars().collect();
    (0..1 + u8::arbitrary(g) % 64).filter_map(|_| g.choose(&letters).copied()).collect()
}

fn number(g: &mut Gen) -> u64 {
    u64::arbitrary(g) >> (11 + u8::arbitrary(g) % 53)
}

fn presence(g: &mut Gen) -> Presence {
    let status = *g.choose(&[Status::Online, Status::Away, Status::Offline]).unwrap();
    Presence { member: a_name(g), status, since: UnixMs(number(g)) }
}

fn id(g: &mut Gen) -> ChatId {
    ChatId(u128::arbitrary(g).to_be_bytes())
}

fn to(g: &mut Gen) -> Recipient {
    if bool::arbitrary(g) { Recipient::Room(a_name(g)) } else { Recipient::Member(a_name(g)) }
}

fn key(g: &mut Gen) -> [u8; 32] {
    core::array::from_fn(|_| u8::arbitrary(g))
}

fn file(g: &mut Gen) -> FileMessage {
    match u8::arbitrary(g) % 6 {
        0 => FileMessage::Offer(FileOffer {
            id: id(g),
            name: String::arbitrary(g),
            size: number(g),
            to: to(g),
            from: a_name(g),
        }),
        1 => {
            let range = |g: &mut Gen| {
                let start = number(g) / 2;
                start..start + 1 + number(g) / 4
            };
            FileMessage::Accept { have: (0..3).map(|_| range(g)).collect(), limit: number(g) }
        }
        2 => FileMessage::More { limit: number(g) },
        3 => FileMessage::End { sha256: key(g) },
        4 => FileMessage::Done { ok: bool::arbitrary(g), error: Some(FileError::Hash) },
        _ => {
            let sides = [None, Some(FileSide::Sender), Some(FileSide::Receiver)];
            let side = *g.choose(&sides).expect("there are some");
            FileMessage::Cancel { reason: String::arbitrary(g), side }
        }
    }
}

fn session(g: &mut Gen) -> SessionInfo {
    SessionInfo {
        now: UnixMs(number(g)),
        member: a_name(g),
        server_id: String::arbitrary(g),
        server_name: String::arbitrary(g),
        observed: String::arbitrary(g),
        keepalive: number(g),
        idle_timeout: number(g),
        next_rotation: number(g),
        rotation_interval: number(g),
        grace_period: number(g),
    }
}

#[derive(Clone, Debug)]
struct Any(Message, Side);

impl Arbitrary for Any {
    fn arbitrary(g: &mut Gen) -> Self {
        let epoch = Epoch(number(g));
        let public_key = key(g);
        let (message, side) = match u8::arbitrary(g) % 13 {
            0 => (Message::Trigger { epoch, reason: RotationReason::Data }, Side::Server),
            1 => {
                let server_id = Some(String::arbitrary(g));
                (Message::Offer { epoch, public_key, server_id }, Side::Client)
            }
            2 => {
                let session = Some(session(g));
                (Message::Answer { epoch, public_key, session }, Side::Server)
            }
            3 => (Message::Switch { epoch }, Side::Client),
            4 => (
                Message::PortRotation(PortRotation {
                    new_port: u16::arbitrary(g).max(1),
                    opens_at: number(g),
                    closes_old_at: number(g),
                    next_rotation: number(g),
                    security_file: Some(Object::new().with("x", number(g))),
                }),
                Side::Server,
            ),
            5 => (Message::CredentialStored { timestamp: number(g) }, Side::Client),
            6 => (
                Message::Error(ErrorMessage {
                    code: ErrorCode::NoRecipient,
                    message: String::arbitrary(g),
                    fatal: bool::arbitrary(g),
                    id: Some(id(g)),
                    now: Some(UnixMs(number(g))),
                }),
                Side::Client,
            ),
            7 | 8 => (
                Message::Chat(Chat {
                    id: id(g),
                    from: a_name(g),
                    to: to(g),
                    text: String::arbitrary(g),
                    sent_at: UnixMs(number(g)),
                }),
                Side::Server,
            ),
            9 => (
                Message::Receipt {
                    id: id(g),
                    state: ReceiptState::Stored,
                    by: a_name(g),
                    at: UnixMs(number(g)),
                },
                Side::Server,
            ),
            10 => (Message::Presence(presence(g)), Side::Server),
            11 => (
                Message::Roster {
                    members: (0..u8::arbitrary(g) % 4).map(|_| presence(g)).collect(),
                    rooms: vec![a_name(g)],
                },
                Side::Server,
            ),
            _ => (Message::File { transfer: number(g), what: file(g) }, Side::Server),
        };
        Self(message, side)
    }
}

quickcheck! {
    fn round_trip(any: Any) -> bool {
        let Any(message, side) = any;
        Message::read(&message.encode(), message.packet_type(), side) == Ok(Some(message))
    }

    fn each_field_is_needed_or_optional_by_its_type(any: Any) -> bool {
        let Any(message, side) = any;
        let object = message.to_object();
        let kind = message.packet_type();
        // A wrong type in any one field is refused, `null` too.
        let keys: Vec<_> = object.fields().map(|(key, _)| key.to_string()).collect();
        // `side` is no field of the protocol: what another program means by it is ignored.
        keys.iter().filter(|key| !matches!(key.as_str(), "type" | "side")).all(|key| {
            let broken = object.clone().with(key, Json::Null);
            matches!(Message::from_object(&broken, kind, side), Err(Violation::Message(_)))
        })
    }

    fn another_header_type_is_refused(any: Any) -> bool {
        let Any(message, side) = any;
        (1..=10).filter_map(PacketType::from_u8).all(|kind| {
            kind == message.packet_type()
                || Message::read(&message.encode(), kind, side) == Err(Violation::MessageSide)
        })
    }
}

#[test]
fn sides() {
    let read = |text: &str, kind, side| Message::read(text.as_bytes(), kind, side);
    let trigger =
        r#"{"type":"key_rotation","version":"2.0","step":"trigger","epoch":2,"reason":"data"}"#;
    let wrong = Err(Violation::MessageSide);
    assert_eq!(read(trigger, PacketType::KeyRotation, Side::Client), wrong);
    let stored = r#"{"type":"receipt","id":"00000000000000000000000000000000","state":"stored"}"#;
    assert_eq!(read(stored, PacketType::Chat, Side::Client), wrong);
    assert!(read(&stored.replace("stored", "read"), PacketType::Chat, Side::Client).is_ok());
    // What the server writes is ignored from a client, whatever it is.
    let chat = r##"{"type":"chat","id":"00000000000000000000000000000000","from":7,"to":"#a","text":"","sent_at":1}"##;
    assert!(matches!(read(chat, PacketType::Chat, Side::Client), Ok(Some(Message::Chat(_)))));
    assert!(read(chat, PacketType::Chat, Side::Server).is_err());
    // Unknown types and unknown fields are ignored.
    assert_eq!(read(r#"{"type":"dance"}"#, PacketType::Chat, Side::Client), Ok(None));
    assert!(read(&chat.replace("7", "7,\"more\":[]"), PacketType::Chat, Side::Client).is_ok());
    assert!(read(r#"{"typ":"dance"}"#, PacketType::Chat, Side::Client).is_err());
    assert!(read(r#"{"type":7}"#, PacketType::Chat, Side::Client).is_err());
}

#[test]
fn names() {
    for good in ["a", "ann-laptop", "9._-", &"x".repeat(64)] {
        assert!(is_name(good));
        assert_eq!(Recipient::parse(&alloc::format!("@{good}")).unwrap().to_string()[1..], *good);
    }
    for bad in ["", "A", "ä", "a b", "a/b", &"x".repeat(65)] {
        assert!(!is_name(bad));
        assert!(Recipient::parse(&alloc::format!("#{bad}")).is_none());
    }
    assert!(Recipient::parse("lobby").is_none() && Recipient::parse("é").is_none());
}
