//! A network of proxies: one in front of each node, which advertises the proxy's address, so that every connection
//! between processes can be cut, slowed or narrowed while it is open, for each pair and direction on its own.
//!
//! The road: [`Mesh::join`] places a proxy; an accepted connection is traced to the process that dialled
//! ([`super::socket_owner`]); [`carry`] moves bytes both ways under the rules for that pair, which may change at any time.
//!
//! Laws: bytes arrive whole and in order or not at all. A stream that lost bytes is reset as soon as its link is mended,
//! since TCP never resumes with a hole. Queues, chunks and connections have bounds; a full queue stops the sender.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::ports::free_address;
use super::random::Random;
use super::socket_owner::Owners;

/// Most bytes that are moved at once.
const CHUNK_BYTES_MAX: usize = 16 << 10;
/// Chunks under way in one direction of one connection: 8 MiB of delayed bytes at most.
const QUEUE_CHUNKS_MAX: usize = 512;
/// Connections through one proxy.
const CONNECTIONS_MAX: usize = 512;
/// Longest a proxy tries to reach its node, which is on this machine.
const DIAL_MAX: Duration = Duration::from_secs(2);

/// What happens to bytes in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// They arrive, `delay` and up to `jitter` later, in order, at most `bytes_per_second` of them (0: no bound).
    Pass { delay: Duration, jitter: Duration, bytes_per_second: u64 },
    /// They wait until the link is mended, as if a short cut were bridged by TCP's own repetition.
    Hold,
    /// They are lost.
    Drop,
}

/// What happens on a link from a dialling process to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Connections stand; `there` is from the dialling process to the node, `back` the other way.
    Open { there: Flow, back: Flow },
    /// Connections are reset, new ones too.
    Reset,
}

impl Flow {
    /// At once and without bound.
    pub const PASS: Self = Self::delayed(Duration::ZERO, Duration::ZERO);

    /// Late.
    pub const fn delayed(delay: Duration, jitter: Duration) -> Self {
        Self::Pass { delay, jitter, bytes_per_second: 0 }
    }

    /// Narrow.
    pub const fn limited(bytes_per_second: u64) -> Self {
        Self::Pass { delay: Duration::ZERO, jitter: Duration::ZERO, bytes_per_second }
    }
}

impl Link {
    /// Whole.
    pub const PASS: Self = Self::both(Flow::PASS);
    /// New connections are accepted, and then nothing is ever heard; old ones fall silent.
    pub const BLACKHOLE: Self = Self::both(Flow::Drop);

    /// The same in both directions.
    pub const fn both(flow: Flow) -> Self {
        Self::Open { there: flow, back: flow }
    }

    fn flow(self, way: Way) -> Flow {
        match (self, way) {
            (Self::Open { there, .. }, Way::There) => there,
            (Self::Open { back, .. }, Way::Back) => back,
            (Self::Reset, _) => Flow::Drop,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

/// The links to one node by who dials; everyone else's is `others`.
#[derive(Debug, Clone)]
struct Rules {
    named: BTreeMap<String, Link>,
    others: Link,
}

/// The rules as one connection sees them.
#[derive(Debug, Clone)]
struct View {
    rules: watch::Receiver<Rules>,
    dialled_by: Option<String>,
}

impl View {
    fn link(&self) -> Link {
        let rules = self.rules.borrow();
        let named = self.dialled_by.as_ref().and_then(|name| rules.named.get(name));
        named.copied().unwrap_or(rules.others)
    }

    /// Waits until this link fits. When the mesh is gone, so is the connection, and this does not return.
    async fn until(&mut self, fits: impl Fn(Link) -> bool) -> Link {
        loop {
            self.rules.mark_unchanged();
            let link = self.link();
            if fits(link) {
                return link;
            }
            if self.rules.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

struct Door {
    address: SocketAddr,
    rules: watch::Sender<Rules>,
}

/// The proxies of a test, by the names of their nodes.
pub struct Mesh {
    runtime: Option<Runtime>,
    doors: BTreeMap<String, Door>,
    owners: Owners,
    seed: u64,
}

impl Mesh {
    /// Starts with no proxies. Jitter follows from the seed; who dials is looked up among `owners`.
    pub fn new(owners: Owners, seed: u64) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().thread_name("mesh").build();
        Self { runtime: Some(runtime.expect("a runtime starts")), doors: BTreeMap::new(), owners, seed }
    }

    /// Places a proxy before a node that listens, or will listen, at `target`; returns the address to advertise.
    ///
    /// # Panics
    /// When the name is taken.
    pub fn join(&mut self, name: &str, target: SocketAddr) -> SocketAddr {
        let runtime = self.runtime.as_ref().expect("it is taken out when this is dropped only");
        let address = free_address();
        // Bound without waiting, so that a test may call this from a runtime of its own.
        let listener = std::net::TcpListener::bind(address).expect("a free address can be bound");
        listener.set_nonblocking(true).expect("a listener can be made not to block");
        let entered = runtime.enter();
        let listener = TcpListener::from_std(listener).expect("the runtime takes it");
        drop(entered);
        let (rules, seen) = watch::channel(Rules { named: BTreeMap::new(), others: Link::PASS });
        let before = self.doors.insert(name.to_owned(), Door { address, rules });
        assert!(before.is_none(), "two nodes named {name}");
        runtime.spawn(accept(listener, target, seen, self.owners.clone(), self.seed));
        address
    }

    /// The address of a node's proxy.
    pub fn address(&self, name: &str) -> SocketAddr {
        self.door(name).address
    }

    /// Rules the link from one process to a node. The test's own process is called `test`.
    pub fn set(&self, from: &str, to: &str, link: Link) {
        self.door(to).rules.send_modify(|rules| {
            rules.named.insert(from.to_owned(), link);
        });
    }

    /// Rules every link to a node, whoever dials.
    pub fn set_all(&self, to: &str, link: Link) {
        self.door(to).rules.send_modify(|rules| *rules = Rules { named: BTreeMap::new(), others: link });
    }

    /// Rules what flows from one node to another, on the connections of both, and leaves the other direction as it is.
    pub fn set_one_way(&self, from: &str, to: &str, flow: Flow) {
        let current = |dialler: &str, node: &str| {
            let rules = self.door(node).rules.borrow();
            match rules.named.get(dialler).copied().unwrap_or(rules.others) {
                Link::Open { there, back } => (there, back),
                Link::Reset => (Flow::Drop, Flow::Drop),
            }
        };
        self.set(from, to, Link::Open { there: flow, back: current(from, to).1 });
        if self.doors.contains_key(from) {
            self.set(to, from, Link::Open { there: current(to, from).0, back: flow });
        }
    }

    /// Rules everything between two nodes.
    pub fn set_between(&self, one: &str, other: &str, link: Link) {
        self.set(one, other, link);
        self.set(other, one, link);
    }

    /// Mends every link.
    pub fn heal(&self) {
        self.doors.keys().for_each(|name| self.set_all(name, Link::PASS));
    }

    fn door(&self, name: &str) -> &Door {
        self.doors.get(name).unwrap_or_else(|| panic!("no node named {name}"))
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // Dropped in a test's own runtime, a runtime must not wait for its tasks.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, rules: watch::Receiver<Rules>, owners: Owners, seed: u64) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let to = listener.local_addr().expect("it is bound");
    let mut random = Random::from_seed(seed ^ u64::from(to.port()));
    loop {
        let Ok((stream, from)) = listener.accept().await else { continue };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            reset(&stream);
            continue;
        };
        let (owners, rules, random) = (owners.clone(), rules.clone(), Random::from_seed(random.bits()));
        tokio::spawn(async move {
            let asked = tokio::task::spawn_blocking(move || owners.who_dialled(from, to)).await;
            let view = View { rules, dialled_by: asked.ok().flatten() };
            connection(stream, target, view, random).await;
            drop(place);
        });
    }
}

/// Closes with a reset instead of a farewell.
fn reset(stream: &TcpStream) {
    // It fails only for a connection that is gone.
    let _ = stream.set_zero_linger();
}

async fn connection(mut caller: TcpStream, target: SocketAddr, mut view: View, random: Random) {
    // Without a way there the node hears nothing of the caller. What the caller sends meanwhile waits or is lost.
    let first = view.until(|link| link.flow(Way::There) != Flow::Hold).await;
    if first.flow(Way::There) == Flow::Drop {
        tokio::select! {
            _ = view.until(|link| link.flow(Way::There) != Flow::Drop || link == Link::Reset) => {}
            _ = swallow(&mut caller) => {}
        }
        return reset(&caller);
    }
    let Ok(Ok(mut node)) = timeout(DIAL_MAX, TcpStream::connect(target)).await else { return reset(&caller) };
    // Small messages are not kept back: the delays here are the ones that were asked for.
    let _ = (caller.set_nodelay(true), node.set_nodelay(true));
    let mut end = view.clone();
    let carried = tokio::select! {
        _ = end.until(|link| link == Link::Reset) => Err(io::ErrorKind::ConnectionReset.into()),
        carried = carry(&mut caller, &mut node, &view, random) => carried,
    };
    if carried.is_err() {
        reset(&caller);
        reset(&node);
    }
}

async fn swallow(caller: &mut TcpStream) -> io::Result<()> {
    let mut lost = [0; CHUNK_BYTES_MAX];
    while caller.read(&mut lost).await? > 0 {}
    // Nobody hears the farewell either.
    std::future::pending().await
}

/// Moves bytes both ways until both sides said farewell; an error means that both must be reset.
async fn carry(caller: &mut TcpStream, node: &mut TcpStream, view: &View, mut random: Random) -> io::Result<()> {
    let (from_caller, to_caller) = caller.split();
    let (from_node, to_node) = node.split();
    let other = Random::from_seed(random.bits());
    let there = direction(from_caller, to_node, view.clone(), Way::There, random);
    let back = direction(from_node, to_caller, view.clone(), Way::Back, other);
    tokio::try_join!(there, back).map(drop)
}

/// Bytes and when they are due; none for a farewell.
type Chunk = (Option<Vec<u8>>, Instant);

async fn direction(
    from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    view: View,
    way: Way,
    random: Random,
) -> io::Result<()> {
    let (queue, due) = mpsc::channel(QUEUE_CHUNKS_MAX);
    tokio::try_join!(take_in(from, queue, view.clone(), way, random), hand_out(to, due, view, way)).map(drop)
}

/// Reads, and says when each chunk is due.
async fn take_in(
    mut from: impl AsyncRead + Unpin,
    queue: mpsc::Sender<Chunk>,
    mut view: View,
    way: Way,
    mut random: Random,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES_MAX];
    let (mut free_at, mut last_due) = (Instant::now(), Instant::now());
    loop {
        let link = view.until(|link| link.flow(way) != Flow::Hold).await;
        let flow = link.flow(way);
        let read = tokio::select! {
            read = from.read(&mut buffer) => read?,
            _ = view.until(|link| link.flow(way) != flow) => continue,
        };
        let Flow::Pass { delay, jitter, bytes_per_second } = flow else {
            return lost(&mut view, way).await;
        };
        let extra = jitter.mul_f64(random.below(1_000) as f64 / 1_000.0);
        let mut due = (Instant::now() + delay + extra).max(last_due);
        if bytes_per_second > 0 {
            free_at = free_at.max(due) + Duration::from_secs_f64(read as f64 / bytes_per_second as f64);
            due = free_at;
        }
        last_due = due;
        let farewell = read == 0;
        let chunk = (!farewell).then(|| buffer[..read].to_vec());
        if queue.send((chunk, due)).await.is_err() || farewell {
            return Ok(());
        }
    }
}

/// Writes each chunk when it is due and the link lets it.
async fn hand_out(
    mut to: impl AsyncWrite + Unpin,
    mut due: mpsc::Receiver<Chunk>,
    mut view: View,
    way: Way,
) -> io::Result<()> {
    while let Some((chunk, at)) = due.recv().await {
        sleep_until(at).await;
        let link = view.until(|link| link.flow(way) != Flow::Hold).await;
        if link.flow(way) == Flow::Drop {
            return lost(&mut view, way).await;
        }
        match chunk {
            Some(bytes) => to.write_all(&bytes).await?,
            None => return to.shutdown().await,
        }
    }
    Ok(())
}

/// The stream has a hole now: silence until the link is mended, then the end.
async fn lost(view: &mut View, way: Way) -> io::Result<()> {
    view.until(|link| link.flow(way) != Flow::Drop).await;
    Err(io::ErrorKind::ConnectionReset.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far longer than anything here takes: reached only when something is lost.
    const SOON: Duration = Duration::from_secs(20);
    /// How long silence is listened to.
    const SILENCE: Duration = Duration::from_millis(150);

    /// A mesh with a node `echo` that sends everything back.
    async fn echo() -> Mesh {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let mut mesh = Mesh::new(Owners::new(), 1);
        mesh.join("echo", target);
        mesh
    }

    async fn dial(mesh: &Mesh) -> TcpStream {
        TcpStream::connect(mesh.address("echo")).await.unwrap()
    }

    /// Sends and waits for the echo.
    async fn says(stream: &mut TcpStream, text: &[u8]) {
        stream.write_all(text).await.unwrap();
        hears(stream, text).await;
    }

    async fn hears(stream: &mut TcpStream, text: &[u8]) {
        let mut heard = vec![0; text.len()];
        timeout(SOON, stream.read_exact(&mut heard)).await.expect("it comes").unwrap();
        assert_eq!(heard, text);
    }

    async fn hears_nothing(stream: &mut TcpStream) {
        let heard = timeout(SILENCE, stream.read_u8()).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    /// Whoever dials is reset, be it before the kernel reports the connection or after.
    async fn resets_callers(address: SocketAddr) {
        match TcpStream::connect(address).await {
            Ok(mut stream) => is_reset(&mut stream).await,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
    }

    async fn is_reset(stream: &mut TcpStream) {
        let end = timeout(SOON, stream.read_u8()).await.expect("the end comes");
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_whole_link_carries_everything_and_the_farewell() {
        let mesh = echo().await;
        let mut stream = dial(&mesh).await;
        let long: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
        let (mut from, mut to) = stream.split();
        let send = async {
            to.write_all(&long).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let mut heard = Vec::new();
        let (_, read) = timeout(SOON, async { tokio::join!(send, from.read_to_end(&mut heard)) }).await.unwrap();
        assert!(read.is_ok() && heard == long, "{read:?}, {} bytes", heard.len());
    }

    #[tokio::test]
    async fn a_black_hole_answers_nobody_and_its_streams_do_not_come_back() {
        let mesh = echo().await;
        let mut old = dial(&mesh).await;
        says(&mut old, b"before").await;
        mesh.set_all("echo", Link::BLACKHOLE);
        let mut new = dial(&mesh).await;
        new.write_all(b"lost").await.unwrap();
        old.write_all(b"lost").await.unwrap();
        hears_nothing(&mut new).await;
        hears_nothing(&mut old).await;
        mesh.heal();
        is_reset(&mut new).await;
        is_reset(&mut old).await;
        says(&mut dial(&mesh).await, b"after").await;
    }

    #[tokio::test]
    async fn a_held_link_delivers_when_it_is_mended() {
        let mesh = echo().await;
        let mut old = dial(&mesh).await;
        says(&mut old, b"before").await;
        mesh.set_all("echo", Link::both(Flow::Hold));
        let mut new = dial(&mesh).await;
        new.write_all(b"kept").await.unwrap();
        old.write_all(b"kept").await.unwrap();
        hears_nothing(&mut new).await;
        hears_nothing(&mut old).await;
        mesh.heal();
        hears(&mut new, b"kept").await;
        hears(&mut old, b"kept").await;
    }

    #[tokio::test]
    async fn a_node_behind_a_cut_hears_of_no_caller() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut mesh = Mesh::new(Owners::new(), 1);
        let address = mesh.join("node", listener.local_addr().unwrap());
        for flow in [Flow::Drop, Flow::Hold] {
            mesh.set_all("node", Link::both(flow));
            let mut caller = TcpStream::connect(address).await.unwrap();
            caller.write_all(b"hello").await.unwrap();
            assert!(timeout(SILENCE, listener.accept()).await.is_err(), "{flow:?}");
            mesh.heal();
            if flow == Flow::Hold {
                let (mut node, _) = timeout(SOON, listener.accept()).await.expect("it dials now").unwrap();
                hears(&mut node, b"hello").await;
            }
        }
    }

    #[tokio::test]
    async fn what_is_under_way_when_a_link_is_cut_is_lost() {
        let mesh = echo().await;
        let mut stream = dial(&mesh).await;
        let late = Flow::delayed(SILENCE * 4, Duration::ZERO);
        mesh.set_all("echo", Link::Open { there: late, back: Flow::PASS });
        stream.write_all(b"under way").await.unwrap();
        // The proxy has read it by now, and does not owe it yet.
        tokio::time::sleep(SILENCE).await;
        mesh.set_all("echo", Link::Open { there: Flow::Drop, back: Flow::PASS });
        let heard = timeout(SILENCE * 6, stream.read_u8()).await;
        assert!(heard.is_err(), "{heard:?}");
        mesh.heal();
        is_reset(&mut stream).await;
    }

    #[tokio::test]
    async fn a_reset_link_ends_old_streams_and_new_ones() {
        let mesh = echo().await;
        let mut old = dial(&mesh).await;
        says(&mut old, b"before").await;
        mesh.set_all("echo", Link::Reset);
        is_reset(&mut old).await;
        resets_callers(mesh.address("echo")).await;
        mesh.heal();
        says(&mut dial(&mesh).await, b"after").await;
    }

    #[tokio::test]
    async fn one_direction_is_cut_alone() {
        let mut mesh = echo().await;
        // A node that speaks first and counts what it hears.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        mesh.join("greeter", listener.local_addr().unwrap());
        let dial = TcpStream::connect(mesh.address("greeter"));
        let (caller, node) = tokio::join!(dial, listener.accept());
        let (mut caller, (mut node, _)) = (caller.unwrap(), node.unwrap());
        mesh.set_one_way("test", "greeter", Flow::Drop);
        caller.write_all(b"lost").await.unwrap();
        node.write_all(b"hello").await.unwrap();
        hears(&mut caller, b"hello").await;
        hears_nothing(&mut node).await;
        mesh.set("test", "greeter", Link::PASS);
        is_reset(&mut node).await;
        is_reset(&mut caller).await;
    }

    #[tokio::test]
    async fn rules_bind_only_whom_they_name() {
        let mesh = echo().await;
        let mut stream = dial(&mesh).await;
        mesh.set("another", "echo", Link::BLACKHOLE);
        says(&mut stream, b"not me").await;
        mesh.set("test", "echo", Link::BLACKHOLE);
        stream.write_all(b"me").await.unwrap();
        hears_nothing(&mut stream).await;
    }

    #[tokio::test]
    async fn one_way_is_cut_on_the_connections_of_both() {
        let mut mesh = Mesh::new(Owners::new(), 1);
        for name in ["a", "b"] {
            mesh.join(name, free_address());
        }
        let link = |from: &str, to: &str| {
            let view = View { rules: mesh.door(to).rules.subscribe(), dialled_by: Some(from.to_owned()) };
            view.link()
        };
        mesh.set_one_way("a", "b", Flow::Drop);
        assert_eq!(link("a", "b"), Link::Open { there: Flow::Drop, back: Flow::PASS });
        assert_eq!(link("b", "a"), Link::Open { there: Flow::PASS, back: Flow::Drop });
        mesh.set_one_way("b", "a", Flow::Hold);
        assert_eq!(link("a", "b"), Link::Open { there: Flow::Drop, back: Flow::Hold });
        assert_eq!(link("b", "a"), Link::Open { there: Flow::Hold, back: Flow::Drop });
        mesh.set_between("a", "b", Link::Reset);
        assert_eq!((link("a", "b"), link("b", "a")), (Link::Reset, Link::Reset));
        assert_eq!(link("test", "b"), Link::PASS);
        mesh.heal();
        assert_eq!((link("a", "b"), link("b", "a")), (Link::PASS, Link::PASS));
    }

    #[tokio::test]
    async fn a_delay_is_kept_at_least_and_order_survives_jitter() {
        let mesh = echo().await;
        let mut stream = dial(&mesh).await;
        let late = Flow::delayed(Duration::from_millis(60), Duration::from_millis(20));
        mesh.set_all("echo", Link::both(late));
        let began = Instant::now();
        let text: Vec<u8> = (0..100).collect();
        for byte in &text {
            stream.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        hears(&mut stream, &text).await;
        assert!(began.elapsed() >= Duration::from_millis(120), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_narrow_link_lets_no_more_through_than_it_should() {
        let mesh = echo().await;
        let mut stream = dial(&mesh).await;
        mesh.set_all("echo", Link::Open { there: Flow::limited(1_000_000), back: Flow::PASS });
        let began = Instant::now();
        says(&mut stream, &[7; 100_000]).await;
        assert!(began.elapsed() >= Duration::from_millis(100), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_node_that_does_not_listen_resets_its_callers() {
        let mut mesh = Mesh::new(Owners::new(), 1);
        let address = mesh.join("down", free_address());
        resets_callers(address).await;
    }
}
