//! quinn, both sides, with its defaults.

use crate::child::{answer_for_usage, cpu, heard, tell, tell_rate, tell_sample, text, word};
use bytes::Bytes;
use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use quinn::{ReadError, RecvStream, SendStream};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// What the certificate is made out to.
const NAME: &str = "localhost";
/// What `wide` asks of the kernel for each socket buffer.
const WIDE: usize = 4 << 20;
/// Connections made at a time where the rate does not count.
const BATCH: usize = 20;

/// A fresh self-signed certificate, and its key.
pub(crate) fn certificate() -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), String> {
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).map_err(text)?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    Ok((made.cert.der().clone(), key.into()))
}

/// Configurations of a server and of clients that trust it.
pub(crate) fn server_config(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, String> {
    ServerConfig::with_single_cert(vec![certificate], key).map_err(text)
}

/// A client that trusts this certificate only.
pub(crate) fn client_config(certificate: CertificateDer<'static>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).map_err(text)?;
    ClientConfig::with_root_certificates(Arc::new(roots)).map_err(text)
}

fn endpoint(buffers: &str, server: Option<ServerConfig>) -> Result<Endpoint, String> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None);
    let socket = socket.map_err(text)?;
    if buffers == "wide" {
        socket.set_recv_buffer_size(WIDE).map_err(text)?;
        socket.set_send_buffer_size(WIDE).map_err(text)?;
    }
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).map_err(text)?;
    let runtime = Arc::new(TokioRuntime);
    Endpoint::new(EndpointConfig::default(), server, socket.into(), runtime).map_err(text)
}

fn block_on<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(text)?.block_on(work)
}

/// Role: `quic-server BUFFERS CERTIFICATE`, where it leaves its certificate.
pub(crate) fn serve(words: &[String]) -> Result<(), String> {
    let (buffers, file): (String, String) = (word(words, 0)?, word(words, 1)?);
    block_on(async {
        let (certificate, key) = certificate()?;
        fs::write(file, &certificate).map_err(text)?;
        let endpoint = endpoint(&buffers, Some(server_config(certificate, key)?))?;
        tell(&endpoint.local_addr().map_err(text)?.port().to_string());
        answer_for_usage();
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else { return };
                while let Ok((send, receive)) = connection.accept_bi().await {
                    // Whoever broke off is not to be answered.
                    let _broken = swallow(send, receive).await;
                }
            });
        }
        Ok(())
    })
}

/// Reads all there is, and says how much that was.
async fn swallow(mut send: SendStream, mut receive: RecvStream) -> Result<(), ReadError> {
    let mut total = 0;
    let mut chunks = vec![Bytes::new(); 64];
    while let Some(count) = receive.read_chunks(&mut chunks).await? {
        total += chunks[..count].iter().map(Bytes::len).sum::<usize>() as u64;
    }
    if send.write_all(&total.to_be_bytes()).await.is_ok() {
        let _already = send.finish();
    }
    Ok(())
}

/// A client's endpoint, and where its server is.
struct Client {
    endpoint: Endpoint,
    server: SocketAddr,
}

impl Client {
    /// Of words `PORT BUFFERS CERTIFICATE`.
    fn new(port: u16, buffers: &str, file: &Path) -> Result<Self, String> {
        let certificate = CertificateDer::from(fs::read(file).map_err(text)?);
        let mut endpoint = endpoint(buffers, None)?;
        endpoint.set_default_client_config(client_config(certificate)?);
        Ok(Self { endpoint, server: (Ipv4Addr::LOCALHOST, port).into() })
    }

    async fn connect(&self) -> Result<Connection, String> {
        self.endpoint.connect(self.server, NAME).map_err(text)?.await.map_err(text)
    }
}

fn client(words: &[String], from: usize) -> Result<Client, String> {
    let (buffers, file): (String, String) = (word(words, from)?, word(words, from + 1)?);
    Client::new(word(words, 0)?, &buffers, Path::new(&file))
}

/// Role: `quic-bulk PORT MIB BUFFERS CERTIFICATE`: one stream of so many MiB.
pub(crate) fn bulk(words: &[String]) -> Result<(), String> {
    let mib: u64 = word(words, 1)?;
    block_on(async {
        let client = client(words, 2)?;
        let connection = client.connect().await?;
        let block = Bytes::from(vec![7; 1 << 20]);
        let (started, used) = (Instant::now(), cpu());
        let (mut send, mut receive) = connection.open_bi().await.map_err(text)?;
        for _ in 0..mib {
            send.write_chunk(block.clone()).await.map_err(text)?;
        }
        send.finish().map_err(text)?;
        let mut total = [0; 8];
        receive.read_exact(&mut total).await.map_err(text)?;
        let (seconds, used) = (started.elapsed().as_secs_f64(), cpu() - used);
        if u64::from_be_bytes(total) != mib << 20 {
            return Err("the server read another number of bytes".to_owned());
        }
        let path = connection.stats().path;
        tell_sample(&[
            ("seconds", seconds),
            ("cpu", used),
            ("bytes", (mib << 20) as f64),
            ("datagram", f64::from(path.current_mtu)),
            ("lost", path.lost_packets as f64),
        ]);
        Ok(())
    })
}

/// Role: `quic-handshakes PORT COUNT AT_A_TIME BUFFERS CERTIFICATE`.
pub(crate) fn handshakes(words: &[String]) -> Result<(), String> {
    let (count, at_a_time): (usize, usize) = (word(words, 1)?, word(words, 2)?);
    block_on(async {
        let client = Arc::new(client(words, 3)?);
        let (started, used) = (Instant::now(), cpu());
        let workers: Vec<_> = (0..at_a_time)
            .map(|worker| {
                let client = client.clone();
                let own = count / at_a_time + usize::from(worker < count % at_a_time);
                tokio::spawn(async move {
                    let mut times = Vec::new();
                    for _ in 0..own {
                        let begun = Instant::now();
                        let connection = client.connect().await?;
                        times.push(begun.elapsed().as_secs_f64());
                        connection.close(0_u32.into(), b"");
                    }
                    Ok::<_, String>(times)
                })
            })
            .collect();
        let mut times = Vec::new();
        for worker in workers {
            times.extend(worker.await.map_err(text)??);
        }
        tell_rate(count as f64, started.elapsed(), cpu() - used, times);
        Ok(())
    })
}

/// Role: `quic-idle PORT COUNT CERTIFICATE`: connections that do nothing.
pub(crate) fn idle(words: &[String]) -> Result<(), String> {
    let (count, file): (usize, String) = (word(words, 1)?, word(words, 2)?);
    block_on(async {
        let client = Arc::new(Client::new(word(words, 0)?, "default", Path::new(&file))?);
        let mut all = vec![client.connect().await?];
        tokio::time::sleep(Duration::from_secs(1)).await;
        tell("one");
        heard();
        while all.len() < count {
            let batch: Vec<_> = (0..BATCH.min(count - all.len()))
                .map(|_| {
                    let client = client.clone();
                    tokio::spawn(async move { client.connect().await })
                })
                .collect();
            for connection in batch {
                all.push(connection.await.map_err(text)??);
            }
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        tell("all");
        heard();
        Ok(())
    })
}
