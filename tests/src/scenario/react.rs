//! What a peer does by itself when a datagram of the machine arrives.

use super::link::Opened;
use super::world::World;
use crate::vectors::Outcome;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clawchat_core::wire::header::PacketType;
use serde_json::{Value, json};

/// The public key in a rotation message.
fn public_key(message: &Value) -> Outcome<[u8; 32]> {
    let text = message["public_key"].as_str().ok_or("no public key")?;
    let bytes = STANDARD.decode(text).map_err(|error| error.to_string())?;
    bytes.as_slice().try_into().map_err(|_| "a public key is 32 bytes".to_owned())
}

fn is_step(message: &Value, step: &str) -> bool {
    message["type"] == "key_rotation" && message["step"] == step
}

impl World {
    /// Takes what matters for the keys, then answers as is the peers' habit.
    pub(super) fn react(&mut self, name: &str, attempt: usize, opened: &Opened) -> Outcome {
        if opened.epoch == 0 {
            return self.take_epoch_zero(name, attempt, opened);
        }
        if let Some(link) = self.link(name, attempt)
            && opened.epoch > link.current
        {
            link.current = opened.epoch;
        }
        let ended = opened.signal.is_some();
        if self.habits.acks && opened.kind != PacketType::Pong && !ended {
            let ack = self.link(name, attempt).and_then(|link| link.ack());
            self.reply(name, attempt, PacketType::Pong, &[ack.ok_or("nothing to acknowledge")?])?;
        }
        for message in &opened.messages {
            self.take_message(name, attempt, message)?;
        }
        Ok(())
    }

    /// The link of a peer's attempt.
    pub(super) fn link(&mut self, name: &str, attempt: usize) -> Option<&mut super::link::Link> {
        self.peers.get_mut(name)?.links.get_mut(attempt)
    }

    fn reply(&mut self, name: &str, attempt: usize, kind: PacketType, list: &[Value]) -> Outcome {
        let datagram = self.seal_next(name, attempt, kind, list)?;
        let path = self.peers.get(name).ok_or("no such peer")?.path();
        let chunk = self.machine.handle_datagram(self.now, path, &mut datagram.clone());
        if chunk.is_some() {
            Err("nobody sends bytes of a file by habit".to_owned())
        } else {
            Ok(())
        }
    }

    /// Sends a message of the peer's channel.
    ///
    /// # Errors
    /// See [`Self::seal_next`].
    pub(super) fn say(
        &mut self,
        name: &str,
        attempt: usize,
        kind: PacketType,
        message: &Value,
    ) -> Outcome {
        let link = self.link(name, attempt).ok_or("no such link")?;
        let id = link.next_message;
        link.next_message += 1;
        self.reply(name, attempt, kind, &[json!({"message": {"id": id, "json": message}})])
    }

    fn take_epoch_zero(&mut self, name: &str, attempt: usize, opened: &Opened) -> Outcome {
        let Some((signal, _)) = &opened.signal else { return Ok(()) };
        let link = self.link(name, attempt).ok_or("no such link")?;
        if is_step(signal, "answer") && !link.has(1) {
            link.agree(1, &public_key(signal)?)?;
        }
        if is_step(signal, "offer") {
            link.offered = Some(public_key(signal)?);
        }
        Ok(())
    }

    fn take_message(&mut self, name: &str, attempt: usize, message: &Value) -> Outcome {
        let epoch = message["epoch"].as_u64().unwrap_or(0);
        let link = self.link(name, attempt).ok_or("no such link")?;
        if is_step(message, "answer") {
            link.agree(epoch, &public_key(message)?)?;
            if self.habits.rotates {
                self.switch(name, attempt)?;
            }
        } else if is_step(message, "offer") {
            link.offered = Some(public_key(message)?);
            if self.habits.rotates {
                let answer = self.answer(name, attempt)?;
                self.say(name, attempt, PacketType::KeyRotation, &answer)?;
            }
        } else if is_step(message, "trigger") && self.habits.rotates {
            let offer = self.offer(name, attempt)?;
            self.say(name, attempt, PacketType::KeyRotation, &offer)?;
        } else if let Some(content) = message.get("security_file") {
            let data = super::start::file_data(content, name)?;
            let timestamp = data.timestamp;
            self.files.insert(format!("{name} renewed"), data);
            if self.habits.stores {
                let stored =
                    json!({"type": "credential_stored", "version": "2.0", "timestamp": timestamp});
                self.say(name, attempt, PacketType::PortRotation, &stored)?;
            }
        }
        Ok(())
    }

    /// The peer's next offer, its private key held.
    ///
    /// # Errors
    /// When there is no such link.
    pub(super) fn offer(&mut self, name: &str, attempt: usize) -> Outcome<Value> {
        let private = self.private_key();
        let link = self.link(name, attempt).ok_or("no such link")?;
        let (epoch, public) = (link.newest() + 1, link.hold(private));
        Ok(rotation("offer", epoch, Some(&public)))
    }

    /// The peer's answer to the machine's last offer; from then on it has the keys.
    ///
    /// # Errors
    /// When nothing was offered.
    pub(super) fn answer(&mut self, name: &str, attempt: usize) -> Outcome<Value> {
        let private = self.private_key();
        let link = self.link(name, attempt).ok_or("no such link")?;
        let (epoch, public) = (link.newest() + 1, link.hold(private));
        let offered = link.offered.take().ok_or("the machine has offered nothing")?;
        link.agree(epoch, &offered)?;
        Ok(rotation("answer", epoch, Some(&public)))
    }

    /// The peer goes to the newest epoch, and says so.
    ///
    /// # Errors
    /// When there is no such link.
    pub(super) fn switch(&mut self, name: &str, attempt: usize) -> Outcome {
        let link = self.link(name, attempt).ok_or("no such link")?;
        link.current = link.newest();
        let switch = rotation("switch", link.current, None);
        self.say(name, attempt, PacketType::KeyRotation, &switch)
    }
}

/// A message of key rotation.
#[must_use]
pub(super) fn rotation(step: &str, epoch: u64, public: Option<&[u8; 32]>) -> Value {
    let mut message =
        json!({"type": "key_rotation", "version": "2.0", "step": step, "epoch": epoch});
    if let Some(public) = public {
        message["public_key"] = json!(STANDARD.encode(public));
    }
    message
}
