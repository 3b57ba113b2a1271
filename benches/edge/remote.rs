//! Signatures by another node, over mutual TLS and an injected distance: what the hop adds, how many a second, what
//! happens beyond that, and whether local signatures notice.

use std::sync::Arc;
use std::time::Duration;

use cinnabar_authority_api::DataCenterId;
use cinnabar_daemon::env::{BoxIo, SystemClock, SystemNet};
use cinnabar_daemon::{Clock, Env, Net};
use cinnabar_edge::distance::{Distances, DistantNet};
use cinnabar_edge_api::SignRequest;
use cinnabar_edge_api::client::EdgeClient;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::load::{Load, histogram, scatter};
use crate::material::{Customer, FAR, Material, NEAR};
use crate::node::Node;
use crate::report::{hundredths, median_of, number, require};
use crate::stream::{ask, clean};
use crate::tables::at_least;
use crate::{Fallible, Plan};

/// The injected round trip of the overhead, in microseconds.
const HOP_US: u32 = 20_000;
/// The one beside local signatures.
const SLOW_US: u32 = 175_000;
/// Loops of signatures with pauses, and as many of echoes, where a single one is looked at.
const LOOPS: u64 = 4;
/// Longest pause between two of a loop, in microseconds.
const PAUSE_US_MAX: u64 = 20_000;
/// Local signatures a second, and as many far ones beside them.
const MIXED_PER_SECOND: f64 = 400.0;
/// Requests in flight where the most a second are counted.
const CLIENTS: usize = 256;
/// Most that the hop may add, in milliseconds: half of all, and 99 of a hundred.
const OVER_MS: (f64, f64) = (1.0, 3.0);
/// Least share of the most that is left when twice as much is asked.
const GOODPUT: f64 = 0.9;
/// Most that local signatures may slow down, their p99.
const SLOWDOWN: f64 = 1.1;

/// Longest wait after an overload: a peer is left alone for up to two minutes.
const AGAIN_MAX: Duration = Duration::from_secs(150);

fn ms(times: &Histogram<u64>, quantile: f64) -> f64 {
    hundredths(times.value_at_quantile(quantile) as f64 / 1e6)
}

fn customer<'a>(material: &'a Material, hostname: &str) -> Fallible<&'a Customer> {
    Ok(material.customers.iter().find(|customer| customer.hostname == hostname).ok_or("no such customer")?)
}

/// Asks for signatures at a rate, whether answered or not; a time is from when it was asked.
async fn steady(client: &EdgeClient, customer: &Customer, per_second: f64, length: Duration) -> Fallible<Load> {
    let (start, request) = (Instant::now(), Arc::new(customer.request()));
    let (mut tick, mut asked, mut open) = (interval(Duration::from_millis(1)), 0.0, JoinSet::new());
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while start.elapsed() < length {
        tick.tick().await;
        // No more than the whole run has, should this fall behind.
        while asked < start.elapsed().min(length).as_secs_f64() * per_second {
            let (client, request) = (client.clone(), (*request).clone());
            open.spawn(async move {
                let asked = Instant::now();
                (client.sign(request).await, asked.elapsed())
            });
            asked += 1.0;
        }
    }
    let mut load = Load { times: histogram(), errors: 0, problem: None, seconds: 0.0 };
    while let Some(answered) = open.join_next().await {
        match answered? {
            (Ok(_), took) => load.times.saturating_record(u64::try_from(took.as_nanos())?),
            (Err(refusal), _) => {
                load.errors += 1;
                load.problem.get_or_insert(refusal.to_string());
            }
        }
    }
    load.seconds = start.elapsed().as_secs_f64();
    Ok(load)
}

/// The distance itself: an echo through the same simulation.
async fn echo() -> Fallible<BoxIo> {
    let listener = SystemNet.listen(([127, 0, 0, 1], 0).into())?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move {
        let Ok((mut stream, _)) = listener.accept().await else { return };
        let (mut read, mut write) = stream.split();
        // Its end is the measure's.
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let (distances, far) = (Arc::new(Distances::default()), FAR.parse::<DataCenterId>()?);
    distances.place(&address, far.clone())?;
    distances.set(far, HOP_US)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    Ok(DistantNet::new(Env::system().net, distances, clock).dial(&address).await?)
}

/// A pause by the kernel's fine timers, of a length that looks random: the runtime's timers tick in milliseconds, and
/// whoever asks in step with them measures the step.
async fn pause(n: u64) -> Fallible<()> {
    let micros = scatter(n) % PAUSE_US_MAX;
    Ok(tokio::task::spawn_blocking(move || std::thread::sleep(Duration::from_micros(micros))).await?)
}

async fn echoes(mut stream: BoxIo, length: Duration, seed: u64) -> Fallible<Histogram<u64>> {
    let (start, mut times, mut piece) = (Instant::now(), histogram(), [7; 200]);
    while start.elapsed() < length {
        pause(seed + times.len()).await?;
        let asked = Instant::now();
        stream.write_all(&piece).await?;
        stream.flush().await?;
        stream.read_exact(&mut piece).await?;
        times.saturating_record(u64::try_from(asked.elapsed().as_nanos())?);
    }
    Ok(times)
}

async fn signatures(client: EdgeClient, request: SignRequest, length: Duration, seed: u64) -> Fallible<Histogram<u64>> {
    let (start, mut times) = (Instant::now(), histogram());
    while start.elapsed() < length {
        pause(seed + times.len()).await?;
        let asked = Instant::now();
        client.sign(request.clone()).await?;
        times.saturating_record(u64::try_from(asked.elapsed().as_nanos())?);
    }
    Ok(times)
}

async fn overhead(plan: &Plan, material: &Material, near: &Node) -> Fallible<Vec<Value>> {
    let (client, mut rows) = (near.client(), Vec::new());
    client.open().await?;
    for (key, hostname) in [("P-256", "far-p256.example"), ("RSA-2048", "far-rsa.example")] {
        let mut runs = Vec::new();
        for _ in 0..plan.repeats {
            let (mut echoing, mut signing) = (JoinSet::new(), JoinSet::new());
            for n in 0..LOOPS {
                echoing.spawn(echoes(echo().await?, plan.length, n << 32));
                let request = customer(material, hostname)?.request();
                signing.spawn(signatures(client.clone(), request, plan.length, (LOOPS + n) << 32));
            }
            let (mut injected, mut times) = (histogram(), histogram());
            while let Some(one) = echoing.join_next().await {
                injected.add(one??)?;
            }
            while let Some(one) = signing.join_next().await {
                times.add(one??)?;
            }
            let (p50, p99) = (ms(&times, 0.5), ms(&times, 0.99));
            let (injected_p50, injected_p99) = (ms(&injected, 0.5), ms(&injected, 0.99));
            runs.push(json!({ "what": "20 ms away", "key": key, "p50_ms": p50, "p99_ms": p99,
                "per_second": (times.len() as f64 / plan.length.as_secs_f64()).round(),
                "injected_p50_ms": injected_p50, "injected_p99_ms": injected_p99,
                "over_p50_ms": hundredths(p50 - injected_p50), "over_p99_ms": hundredths(p99 - injected_p99) }));
        }
        let mut row = median_of(&runs);
        require(&mut row, "over_p50_ms", OVER_MS.0);
        require(&mut row, "over_p99_ms", OVER_MS.1);
        rows.push(row);
    }
    Ok(rows)
}

/// Waits until the machine that was asked too much is not left alone any more.
async fn answers_again(client: &EdgeClient, customer: &Customer) -> Fallible<()> {
    let start = Instant::now();
    while let Err(refusal) = client.sign(customer.request()).await {
        if start.elapsed() > AGAIN_MAX {
            return Err(refusal.into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// The most a second, and what is left of it when twice as many are asked.
async fn throughput(plan: &Plan, material: &Material, near: &Node) -> Fallible<Vec<Value>> {
    let (client, mut rows) = (near.client(), Vec::new());
    for (key, hostname) in [("P-256", "far-p256.example"), ("RSA-2048", "far-rsa.example")] {
        let (mut most, mut twice) = (Vec::new(), Vec::new());
        for _ in 0..plan.repeats {
            let customer = customer(material, hostname)?;
            let load = ask(plan, &client, customer, CLIENTS, true).await;
            clean(&load)?;
            most.push(json!({ "what": "256 in flight", "key": key, "per_second": load.per_second().round(),
                "p50_ms": ms(&load.times, 0.5), "p99_ms": ms(&load.times, 0.99), "errors": load.errors }));
            let offered = load.per_second() * 2.0;
            let over = steady(&client, customer, offered, plan.length).await?;
            let ratio = (over.per_second() / load.per_second() * 1000.0).round() / 1000.0;
            twice.push(json!({ "what": "twice that", "key": key, "per_second": over.per_second().round(),
                "offered": offered.round(), "p50_ms": ms(&over.times, 0.5), "p99_ms": ms(&over.times, 0.99),
                "errors": over.errors, "first_error": over.problem, "ratio": ratio }));
            answers_again(&client, customer).await?;
        }
        rows.push(median_of(&most));
        let mut row = median_of(&twice);
        at_least(&mut row, "ratio", GOODPUT);
        rows.push(row);
    }
    Ok(rows)
}

/// Local signatures beside as many slow ones, and alone, in turn.
async fn mixed(plan: &Plan, material: &Material, near: &Node) -> Fallible<Vec<Value>> {
    let (client, mut rows) = (near.client(), Vec::new());
    for (key, local, far) in
        [("P-256", "local-p256.example", "far-p256.example"), ("RSA-2048", "local-rsa.example", "far-rsa.example")]
    {
        let (local, far) = (customer(material, local)?, customer(material, far)?);
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..plan.repeats {
            // The same number of requests: all of them local, or half of them far.
            let all = steady(&client, local, MIXED_PER_SECOND * 2.0, plan.length).await?;
            let half = steady(&client, local, MIXED_PER_SECOND, plan.length);
            let (half, slow) = tokio::join!(half, steady(&client, far, MIXED_PER_SECOND, plan.length));
            let (half, slow) = (half?, slow?);
            clean(&all).and(clean(&half)).and(clean(&slow))?;
            let row = |what: &str, load: &Load| {
                json!({ "what": what, "key": key, "per_second": load.per_second().round(),
                    "p50_ms": ms(&load.times, 0.5), "p99_ms": ms(&load.times, 0.99) })
            };
            alone.push(row("local, all local", &all));
            let mut mixed = row("local, half 175 ms away", &half);
            mixed["ratio"] = (number(&mixed["p99_ms"]) / ms(&all.times, 0.99)).into();
            beside.push(mixed);
        }
        rows.push(median_of(&alone));
        let mut row = median_of(&beside);
        row["ratio"] = hundredths(number(&row["ratio"])).into();
        require(&mut row, "ratio", SLOWDOWN);
        rows.push(row);
    }
    Ok(rows)
}

/// The rows of the part.
pub async fn run(plan: &Plan, material: &Material) -> Fallible<Vec<Value>> {
    let (near, far) = (Node::start(material, NEAR).await?, Node::start(material, FAR).await?);
    near.knows(&far, HOP_US).await?;
    plan.progress("remote: 20 ms away");
    let mut rows = overhead(plan, material, &near).await?;
    near.knows(&far, SLOW_US).await?;
    plan.progress("remote: local signatures beside far ones");
    rows.extend(mixed(plan, material, &near).await?);
    near.knows(&far, 0).await?;
    plan.progress("remote: as many as can be, and twice as many");
    rows.extend(throughput(plan, material, &near).await?);
    Ok(rows)
}
