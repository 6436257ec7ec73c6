//! quinn-proto alone: two endpoints in one thread, datagrams carried by hand, a clock that only
//! moves when nothing else does.

use crate::child::{Measured, Sample, text, thread_cpu};
use crate::quic;
use bytes::{Bytes, BytesMut};
use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig,
    FinishError, ServerConfig, StreamId, TransportConfig, WriteError,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// What both sides may have on its way: wide, so that neither waits for the other.
const WINDOW: u32 = 16 << 20;
/// Datagrams of one call, as quinn asks for.
const BATCH: usize = 10;
/// Time that passes while datagrams move.
const STEP: Duration = Duration::from_micros(100);
/// Time that passes while nothing does.
const WAIT: Duration = Duration::from_millis(1);
/// Rounds without a datagram after which something is wrong.
const STUCK: u32 = 60_000;

struct Node {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    address: SocketAddr,
    inbox: VecDeque<BytesMut>,
    buffer: Vec<u8>,
}

impl Node {
    fn new(last: u8, server: Option<Arc<ServerConfig>>) -> Self {
        let endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), server, true, None);
        let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 4433));
        let inbox = VecDeque::new();
        Self { endpoint, connection: None, address, inbox, buffer: Vec::with_capacity(1 << 16) }
    }

    /// Takes what came and hands over what is to go; whether anything moved.
    fn turn(&mut self, now: Instant, peer: &mut VecDeque<BytesMut>, from: SocketAddr) -> bool {
        let mut moved = false;
        while let Some(datagram) = self.inbox.pop_front() {
            moved = true;
            self.buffer.clear();
            let event = self.endpoint.handle(now, from, None, None, datagram, &mut self.buffer);
            match (event, &mut self.connection) {
                (Some(DatagramEvent::ConnectionEvent(handle, event)), Some((own, connection)))
                    if *own == handle =>
                {
                    connection.handle_event(event);
                }
                (Some(DatagramEvent::NewConnection(incoming)), None) => {
                    self.buffer.clear();
                    let accepted = self.endpoint.accept(incoming, now, &mut self.buffer, None);
                    self.connection = accepted.ok();
                }
                _ => {}
            }
        }
        let Some((handle, connection)) = &mut self.connection else { return moved };
        if connection.poll_timeout().is_some_and(|at| at <= now) {
            connection.handle_timeout(now);
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        loop {
            self.buffer.clear();
            let Some(sent) = connection.poll_transmit(now, BATCH, &mut self.buffer) else { break };
            moved = true;
            let segment = sent.segment_size.unwrap_or(sent.size);
            peer.extend(self.buffer[..sent.size].chunks(segment).map(BytesMut::from));
        }
        while connection.poll().is_some() {}
        moved
    }
}

fn configs() -> Result<(ClientConfig, ServerConfig), String> {
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(WINDOW.into()).receive_window((2 * WINDOW).into());
    transport.send_window(u64::from(2 * WINDOW)).initial_mtu(1452);
    let transport = Arc::new(transport);
    let (certificate, key) = quic::certificate()?;
    let mut server = quic::server_config(certificate.clone(), key)?;
    let mut client = quic::client_config(certificate)?;
    server.transport_config(transport.clone());
    client.transport_config(transport);
    Ok((client, server))
}

/// Both ends of one stream.
struct Stream {
    block: Bytes,
    total: u64,
    sending: Option<StreamId>,
    receiving: Option<StreamId>,
    sent: u64,
    received: u64,
}

impl Stream {
    fn send(&mut self, connection: &mut Connection) -> Result<(), String> {
        if self.sending.is_none() && !connection.is_handshaking() {
            self.sending = connection.streams().open(Dir::Uni);
        }
        let Some(id) = self.sending else { return Ok(()) };
        while self.sent < self.total {
            let most = usize::try_from(self.total - self.sent).unwrap_or(usize::MAX);
            let mut blocks = [self.block.slice(..most.min(self.block.len()))];
            match connection.send_stream(id).write_chunks(&mut blocks) {
                Ok(written) => self.sent += written.bytes as u64,
                Err(WriteError::Blocked) => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
        }
        match connection.send_stream(id).finish() {
            Ok(()) | Err(FinishError::ClosedStream) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn receive(&mut self, connection: &mut Connection) -> Result<(), String> {
        if self.receiving.is_none() {
            self.receiving = connection.streams().accept(Dir::Uni);
        }
        let Some(id) = self.receiving else { return Ok(()) };
        let mut stream = connection.recv_stream(id);
        let mut chunks = stream.read(true).map_err(text)?;
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            self.received += chunk.bytes.len() as u64;
        }
        // What it asks to be sent goes out with the next turn.
        let _more_to_send = chunks.finalize();
        Ok(())
    }
}

/// So many MiB from one endpoint to the other.
pub(crate) fn bulk(mib: u64) -> Measured {
    let (client_config, server_config) = configs()?;
    let (mut client, mut server) =
        (Node::new(1, None), Node::new(2, Some(Arc::new(server_config))));
    let (mut now, mut quiet) = (Instant::now(), 0);
    let connected = client.endpoint.connect(now, client_config, server.address, "localhost");
    client.connection = Some(connected.map_err(text)?);
    let mut stream = Stream {
        block: Bytes::from(vec![7; 1 << 20]),
        total: mib << 20,
        sending: None,
        receiving: None,
        sent: 0,
        received: 0,
    };
    let mut started = thread_cpu();
    while stream.received < stream.total {
        if let Some((_, connection)) = &mut client.connection {
            stream.send(connection)?;
        }
        let mut moved = client.turn(now, &mut server.inbox, server.address);
        moved |= server.turn(now, &mut client.inbox, client.address);
        if let Some((_, connection)) = &mut server.connection {
            stream.receive(connection)?;
        }
        if stream.received == 0 {
            // The handshake does not count.
            started = thread_cpu();
        }
        quiet = if moved { 0 } else { quiet + 1 };
        now += if quiet > 3 { WAIT } else { STEP };
        if quiet > STUCK {
            return Err("nothing moves any more".to_owned());
        }
    }
    let rate = stream.total as f64 / (thread_cpu() - started);
    Ok(Sample::from([("rate".to_owned(), rate)]))
}
