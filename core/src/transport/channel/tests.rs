use super::*;
use crate::limits::MESSAGE_MAX;
use quickcheck::quickcheck;

const KINDS: [PacketType; 3] = [PacketType::Chat, PacketType::Presence, PacketType::KeyRotation];

quickcheck! {
    /// Whatever is lost, repeated and reordered: every message arrives once, in order, whole, and its
    /// token comes back.
    fn delivers_all_in_order(sizes: Vec<u16>, fate: Vec<u8>, cut: u8) -> bool {
        let (mut sender, mut receiver) = (SendChannel::default(), RecvChannel::default());
        let sizes: Vec<_> = sizes.iter().map(|size| 1 + usize::from(*size) % 3000).collect();
        let kind = |index: usize| KINDS[index % 2];
        for (index, size) in sizes.iter().enumerate() {
            let bytes = vec![index as u8; *size];
            assert!(sender.push(kind(index), bytes, Some(index as u64)));
        }
        let (mut flight, mut tokens, mut got) = (VecDeque::new(), Vec::new(), Vec::new());
        let mut fate = fate.into_iter().chain(core::iter::repeat(0));
        while !sender.is_idle() {
            if let Some((kind, fragment)) = sender.next(None, May::Begin) {
                let count = fragment.bytes.len().min(1 + usize::from(cut) * 5);
                let bytes = fragment.bytes[..count].to_vec();
                let range = fragment.offset..fragment.offset + count as u64;
                let (id, total) = (fragment.id, fragment.total);
                flight.push_back((kind, id, total, range.clone(), bytes));
                sender.sent(id, range);
            }
            let luck = fate.next().unwrap();
            if luck % 5 == 1 && !flight.is_empty() {
                flight.rotate_left(1);
            } else if let Some((kind, id, total, range, bytes)) = flight.pop_front() {
                if luck % 5 == 2 {
                    sender.lost(id, range);
                    continue;
                }
                let fragment = Fragment { id, total, offset: range.start, bytes: &bytes };
                receiver.fragment(kind, &fragment).unwrap();
                while let Some(message) = receiver.pop() {
                    got.push(message);
                }
                if luck % 5 == 3 {
                    sender.lost(id, range.clone());
                }
                sender.acked(id, range, &mut tokens);
            }
        }
        let expected = sizes.iter().enumerate().map(|(i, size)| (kind(i), vec![i as u8; *size].into()));
        tokens.iter().copied().eq(0..sizes.len() as u64) && got.into_iter().eq(expected)
    }

    /// A hostile sender gets an error at worst, and memory stays within the window.
    fn hostile_fragments(fragments: Vec<(u8, u8, u16, u16, u8)>) -> bool {
        let mut receiver = RecvChannel::default();
        for (id, kind, total, offset, len) in fragments {
            let bytes = vec![kind; usize::from(len) + 1];
            let offset = u64::from(offset);
            let total = u64::from(total).max(offset + bytes.len() as u64).min(MESSAGE_MAX as u64);
            if offset + bytes.len() as u64 > total {
                continue;
            }
            let fragment = Fragment { id: u64::from(id), total, offset, bytes: &bytes };
            if receiver.fragment(KINDS[usize::from(kind) % 3], &fragment).is_err() {
                return true;
            }
            while receiver.pop().is_some() {}
            assert!(receiver.bytes <= CHANNEL_BYTES);
            assert!(receiver.partial.len() as u64 <= CHANNEL_MESSAGES);
        }
        true
    }
}

/// Sends whatever may be sent; the kinds of the messages begun.
fn send_all(sender: &mut SendChannel, may: May) -> Vec<PacketType> {
    let mut begun = Vec::new();
    while let Some((kind, fragment)) = sender.next(None, may) {
        let (id, range) = (fragment.id, fragment.offset..fragment.total);
        if fragment.offset == 0 {
            begun.push(kind);
        }
        sender.sent(id, range);
    }
    begun
}

#[test]
fn window_of_the_sender() {
    let mut sender = SendChannel::default();
    for _ in 0..17 {
        assert!(sender.push(PacketType::Chat, vec![0; MESSAGE_MAX], None));
    }
    assert_eq!(send_all(&mut sender, May::Begin).len(), 16);
    assert_eq!((sender.window.len(), sender.waiting.len()), (16, 1));
    sender.acked(1, 0..MESSAGE_MAX as u64, &mut Vec::new());
    assert!(!sender.has_next(May::Begin), "only the lowest moves the window");
    sender.acked(0, 0..MESSAGE_MAX as u64, &mut Vec::new());
    assert_eq!((sender.window.len(), sender.lowest), (14, 2));
    for _ in 0..100 {
        assert!(sender.push(PacketType::Presence, vec![0; 1], None));
    }
    send_all(&mut sender, May::Begin);
    assert_eq!(sender.window.len() as u64, CHANNEL_MESSAGES);
    while sender.push(PacketType::Presence, vec![0; 1], None) {}
    assert_eq!(sender.waiting.len(), CHANNEL_BACKLOG);
    assert!(sender.push(PacketType::KeyRotation, vec![0; 1], None), "in any case");
    assert_eq!(sender.waiting.front().unwrap().kind, PacketType::KeyRotation);
}

#[test]
fn what_waits_takes_no_more_than_its_length() {
    let roomy = || {
        let mut bytes = Vec::with_capacity(4096);
        bytes.push(b'x');
        bytes
    };
    let mut sender = SendChannel::default();
    assert!(sender.push(PacketType::Chat, roomy(), None));
    assert!(sender.push(PacketType::PortRotation, roomy(), None));
    let [short, secret] = [0, 1].map(|at| sender.waiting[at].bytes.capacity());
    assert!(short < 64 && secret == 4096, "a secret leaves no copy behind");
}

#[test]
fn near_the_end_of_an_epoch_only_rotation_begins() {
    let mut sender = SendChannel::default();
    assert!(sender.push(PacketType::Chat, vec![0; 10], None));
    send_all(&mut sender, May::Begin);
    assert!(sender.push(PacketType::Chat, vec![0; 10], None));
    assert!(!sender.has_next(May::Repair));
    sender.lost(0, 0..5);
    assert!(sender.has_next(May::Repair), "messages begun are repaired");
    assert!(sender.push(PacketType::KeyRotation, vec![0; 1], None));
    let begun = send_all(&mut sender, May::Repair);
    assert_eq!(begun, [PacketType::Chat, PacketType::KeyRotation]);
    assert_eq!(send_all(&mut sender, May::Begin), [PacketType::Chat]);
}

#[test]
fn window_of_the_receiver() {
    let take = |receiver: &mut RecvChannel, id, total, offset, bytes: &[u8]| {
        receiver.fragment(PacketType::Chat, &Fragment { id, total, offset, bytes })
    };
    let mut receiver = RecvChannel::default();
    assert_eq!(take(&mut receiver, 64, 1, 0, b"x"), Err(Violation::MessageWindow));
    assert_eq!(take(&mut receiver, 63, 1, 0, b"x"), Ok(()));
    assert_eq!(take(&mut receiver, 0, 3, 0, b"ab"), Ok(()));
    assert_eq!(take(&mut receiver, 0, 4, 0, b"ab"), Err(Violation::FragmentsDisagree));
    assert_eq!(take(&mut receiver, 0, 3, 1, b"xy"), Err(Violation::FragmentsDisagree));
    assert_eq!(take(&mut receiver, 0, 3, 1, b"bc"), Ok(()));
    assert_eq!(receiver.pop(), Some((PacketType::Chat, b"abc".to_vec().into())));
    assert_eq!(take(&mut receiver, 0, 9, 0, b"late"), Ok(()), "below the window: ignored unread");
    for id in 1..17 {
        let expected = if id < 16 { Ok(()) } else { Err(Violation::MessageWindow) };
        assert_eq!(take(&mut receiver, id, MESSAGE_MAX as u64, 0, b"x"), expected, "1 MiB");
    }
    let mut receiver = RecvChannel::default();
    for piece in 0..256 {
        assert_eq!(take(&mut receiver, 0, 60_000, piece * 2, b"x"), Ok(()));
    }
    assert_eq!(take(&mut receiver, 0, 60_000, 1, b"x"), Ok(()), "joins two");
    assert_eq!(take(&mut receiver, 0, 60_000, 1000, b"x"), Ok(()));
    assert_eq!(take(&mut receiver, 0, 60_000, 2000, b"x"), Err(Violation::MessageWindow));
}
