//! `GET` over a Unix socket: a replica's Redis endpoint beside Redis, the same records, the same tiny client.
//!
//! The client blocks in a thread of its own, so that what it adds is two system calls; with several in flight it sends
//! them at once and reads all answers. Every answer is looked at. Both servers run all the time and are asked in turn.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::child::{Child, run as run_program};
use crate::data::{VALUE_BYTES, is_value, key, value};
use crate::load::{histogram, scatter};
use crate::machine::{Usage, now_ns};
use crate::report::{hundredths, median_of, require, row};
use crate::world::World;
use crate::{Fallible, Plan};

/// Clients and requests in flight of each.
const LOADS: [(usize, usize); 3] = [(1, 1), (8, 1), (1, 16)];
/// Required with one client and one request.
const P50_US_MAX: f64 = 17.0;
/// Requests in flight while a server is filled or warmed.
const FILL_DEPTH: u64 = 100;
/// Longest wait for Redis to listen.
const START_MAX: Duration = Duration::from_secs(10);

struct Server {
    name: &'static str,
    socket: PathBuf,
    pid: u32,
}

struct Connection(UnixStream);

impl Connection {
    fn open(socket: &Path) -> Fallible<Self> {
        Ok(Self(UnixStream::connect(socket)?))
    }

    /// Gets some records with one write, and checks what comes back.
    fn get(&mut self, records: &[u64], buffer: &mut Vec<u8>) -> Fallible<()> {
        let head = format!("${VALUE_BYTES}\r\n");
        let length = head.len() + VALUE_BYTES + 2;
        buffer.resize(length * records.len(), 0);
        self.0.write_all(&request(records))?;
        self.0.read_exact(buffer)?;
        for (record, answer) in records.iter().zip(buffer.chunks(length)) {
            if !answer.starts_with(head.as_bytes()) || !is_value(*record, &answer[head.len()..length - 2]) {
                return Err(format!("{} has another value than was put", key(*record)).into());
            }
        }
        Ok(())
    }

    fn set(&mut self, records: &[u64]) -> Fallible<()> {
        let mut request = Vec::new();
        for n in records {
            let key = key(*n);
            write!(request, "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${VALUE_BYTES}\r\n", key.len())?;
            request.extend(value(*n, 0));
            request.extend(b"\r\n");
        }
        self.0.write_all(&request)?;
        let mut answers = vec![0; records.len() * b"+OK\r\n".len()];
        self.0.read_exact(&mut answers)?;
        if answers != b"+OK\r\n".repeat(records.len()) {
            return Err("Redis did not take the records".into());
        }
        Ok(())
    }
}

fn request(records: &[u64]) -> Vec<u8> {
    records
        .iter()
        .flat_map(|n| format!("*2\r\n$3\r\nGET\r\n${}\r\n{}\r\n", key(*n).len(), key(*n)).into_bytes())
        .collect()
}

/// Version of Redis, as it prints it.
pub fn version(program: &Path) -> Fallible<String> {
    let text = run_program(program, &["--version"])?;
    Ok(text.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or_default().to_owned())
}

/// Measures; a row for each server and load.
pub async fn run(plan: &Plan, world: &World) -> Fallible<Vec<Value>> {
    let node = world.replica("resp").await?;
    let mut servers = vec![Server { name: "cinnabar", socket: node.file(".resp"), pid: node.process.id() }];
    let redis = match &plan.redis {
        Some(program) => Some(start_redis(program, &world.folder, world.keys).await?),
        None => None,
    };
    servers.extend(redis.as_ref().map(|(child, socket)| Server {
        name: "redis",
        socket: socket.clone(),
        pid: child.id(),
    }));
    let keys = world.keys;
    for server in &servers {
        let socket = server.socket.clone();
        tokio::task::spawn_blocking(move || get_all(&socket, keys)).await??;
    }
    let mut rows = Vec::new();
    for (clients, depth) in LOADS {
        let mut runs: Vec<Vec<Value>> = vec![Vec::new(); servers.len()];
        for turn in 0..plan.repeats {
            for n in 0..servers.len() {
                let n = (n + turn) % servers.len();
                runs[n].push(measure(plan, &servers[n], keys, clients, depth).await?);
            }
        }
        for runs in &runs {
            let mut row = median_of(runs);
            if row["system"] == "cinnabar" && (clients, depth) == (1, 1) {
                require(&mut row, "p50_us", P50_US_MAX);
            }
            plan.progress(&format!(
                "resp {clients} x {depth} {}: p50 {} us, p99 {} us, {} us CPU",
                row["system"], row["p50_us"], row["p99_us"], row["cpu_us_per_op"]
            ));
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Gets every record once.
pub fn get_all(socket: &Path, keys: u64) -> Fallible<()> {
    for_all(socket, keys, |connection, records, buffer| connection.get(records, buffer))
}

async fn start_redis(program: &Path, folder: &Path, keys: u64) -> Fallible<(Child, PathBuf)> {
    let socket = folder.join("redis.sock");
    let (at, dir) = (socket.display().to_string(), folder.display().to_string());
    let args = ["--port", "0", "--unixsocket", &at, "--save", "", "--appendonly", "no", "--dir", &dir];
    let child = Child::start(program, &args, folder.join("redis.log"))?;
    let until = Instant::now() + START_MAX;
    while UnixStream::connect(&socket).is_err() {
        if Instant::now() > until {
            return Err(format!("Redis does not listen: {}", child.log.display()).into());
        }
        sleep(Duration::from_millis(20)).await;
    }
    let at = socket.clone();
    tokio::task::spawn_blocking(move || for_all(&at, keys, |connection, records, _| connection.set(records))).await??;
    Ok((child, socket))
}

/// Does something with every record, many at once.
fn for_all(
    socket: &Path,
    keys: u64,
    each: impl Fn(&mut Connection, &[u64], &mut Vec<u8>) -> Fallible<()>,
) -> Fallible<()> {
    let (mut connection, mut buffer) = (Connection::open(socket)?, Vec::new());
    for first in (0..keys).step_by(usize::try_from(FILL_DEPTH)?) {
        let records: Vec<u64> = (first..(first + FILL_DEPTH).min(keys)).collect();
        each(&mut connection, &records, &mut buffer)?;
    }
    Ok(())
}

async fn measure(plan: &Plan, server: &Server, keys: u64, clients: usize, depth: usize) -> Fallible<Value> {
    let (usage, start) = (Usage::begin(&[server.pid]), Instant::now());
    let mut loops = Vec::new();
    for client in 0..clients {
        let (socket, length) = (server.socket.clone(), plan.length);
        loops.push(tokio::task::spawn_blocking(move || one(&socket, keys, client as u64, depth, length)));
    }
    let mut times = histogram();
    for one in loops {
        times.add(&one.await??)?;
    }
    let (used, seconds) = (usage.end(), start.elapsed().as_secs_f64());
    let operations = times.len() as f64 * depth as f64;
    let what = json!({ "system": server.name, "clients": clients, "depth": depth, "value_bytes": VALUE_BYTES });
    let more = json!({
        "per_second": (operations / seconds).round(),
        "cpu_us_per_op": hundredths(used.servers[0] * 1e6 / operations),
        "client_cpu_us_per_op": hundredths(used.own * 1e6 / operations),
    });
    Ok(row(&what, &times, &more))
}

/// One client: each time is that of all its requests in flight, from the first byte sent to the last received.
fn one(socket: &Path, keys: u64, client: u64, depth: usize, length: Duration) -> Fallible<Histogram<u64>> {
    let (mut connection, mut buffer, mut times) = (Connection::open(socket)?, Vec::new(), histogram());
    let (start, mut n) = (Instant::now(), client << 40);
    while start.elapsed() < length {
        let records: Vec<u64> = (0..depth as u64).map(|next| scatter(n + next) % keys).collect();
        n += depth as u64;
        let asked = now_ns();
        connection.get(&records, &mut buffer)?;
        times.saturating_record(now_ns() - asked);
    }
    Ok(times)
}
