//! The measures.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::https::Https;
use crate::load::{Load, closed_loop, histogram};
use crate::machine::Usage;
use crate::material::{Body, KNOWN, policy};
use crate::report::{hundredths, number, require};
use crate::world::{World, ZONE};
use crate::{Fallible, Plan};

/// Longest that a policy check may take, p99.
const CHECK_MS: f64 = 20.0;
/// Least uploads a second.
const UPLOADS_PER_SECOND: u32 = 150;
/// Longest that an upload may take, p99.
const UPLOAD_MS: f64 = 100.0;
/// Longest that the first upload of a policy may take over the others.
const FIRST_OVER_MS: f64 = 60.0;
/// Connections of the run at a steady rate.
const CONNECTIONS: usize = 32;

fn ms(times: &Histogram<u64>, quantile: f64) -> f64 {
    hundredths(times.value_at_quantile(quantile) as f64 / 1e6)
}

/// A row about what a load did; `used` is processor time of the authority, then of the voters.
fn row(what: &Value, load: &Load, used: &[f64]) -> Value {
    let mut row = what.clone();
    let per_op = |seconds: f64| hundredths(seconds * 1e3 / load.operations().max(1) as f64);
    row["operations"] = load.operations().into();
    row["per_second"] = hundredths(load.per_second()).into();
    row["p50_ms"] = ms(&load.times, 0.5).into();
    row["p99_ms"] = ms(&load.times, 0.99).into();
    row["p999_ms"] = ms(&load.times, 0.999).into();
    row["cpu_ms_per_op"] = per_op(used[0]).into();
    row["store_cpu_ms_per_op"] = per_op(used[1..].iter().sum()).into();
    row["errors"] = load.errors.into();
    row["first_error"] = load.problem.clone().into();
    row
}

async fn usage(world: &World) -> Fallible<Usage> {
    let mut pids = vec![world.pid()];
    pids.extend(world.cluster.pids().await?);
    Ok(Usage::begin(&pids))
}

/// Policy checks, one after the other and some at once.
pub async fn checks(plan: &Plan, world: &World) -> Fallible<Vec<Value>> {
    let mut rows = Vec::new();
    let next = Arc::new(AtomicUsize::new(0));
    for clients in [1, 4] {
        let connections: Arc<Vec<Https>> = Arc::new((0..clients).map(|_| world.client()).collect());
        let tokens = Arc::new(world.checkers.clone());
        // Of each zone's minute.
        let budget = Arc::new(AtomicUsize::new(plan.checks / 2));
        let (next, failed) = (next.clone(), Arc::new(Mutex::new(Vec::new())));
        let (usage, failures) = (usage(world).await?, failed.clone());
        let load = closed_loop(clients, plan.length, move |client, _| {
            let (connections, tokens, next, budget) =
                (connections.clone(), tokens.clone(), next.clone(), budget.clone());
            let failures = failures.clone();
            async move {
                if budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    return Err(OVER.to_owned());
                }
                let n = next.fetch_add(1, Ordering::Relaxed);
                let body = json!({ "policy": policy(n) }).to_string();
                let token = &tokens[n % tokens.len()];
                let answer = connections[client].post("/v1/policies:check", token, Bytes::from(body)).await;
                if let Err(problem) = &answer {
                    failures.lock().await.push(problem.clone());
                }
                answer.map(drop)
            }
        });
        let mut load = load.await;
        // What was over the zones' rate was not asked.
        let failed = failed.lock().await;
        (load.errors, load.problem) = (u64::try_from(failed.len())?, failed.first().cloned());
        let what = json!({ "clients": clients });
        let mut row = row(&what, &load, &usage.end().servers);
        row["per_second"] = Value::Null;
        if clients == 1 {
            require(&mut row, "p99_ms", CHECK_MS);
        }
        rows.push(checked(row)?);
    }
    Ok(rows)
}

/// What a client says that has asked as often as its zones may.
const OVER: &str = "as many as the zones may have";

fn checked(row: Value) -> Fallible<Value> {
    match row["errors"].as_u64() {
        Some(0) => Ok(row),
        _ => Err(format!("errors: {row:#}").into()),
    }
}

async fn upload(client: &Https, token: &str, body: Bytes) -> Result<(), String> {
    client.post(&format!("/v1/zones/{ZONE}/certificates"), token, body).await.map(drop)
}

/// Hands out uploads, each once.
#[derive(Clone)]
struct Pile {
    requests: Arc<Mutex<std::vec::IntoIter<Bytes>>>,
}

impl Pile {
    async fn next(&self) -> Result<Bytes, String> {
        self.requests.lock().await.next().ok_or_else(|| "no certificate is left: make more".to_owned())
    }
}

/// Uploads under policies that have their key.
pub async fn uploads(plan: &Plan, world: &mut World, bodies: &[Body]) -> Fallible<Vec<Value>> {
    let kept = plan.policies * 2;
    let requests: Vec<Bytes> =
        bodies[kept..].iter().enumerate().map(|(n, body)| body.under(KNOWN[n % KNOWN.len()])).collect();
    let pile = Pile { requests: Arc::new(Mutex::new(requests.into_iter())) };
    // Their keys are made outside what is measured.
    let first = world.client();
    for _ in KNOWN {
        upload(&first, &world.token, pile.next().await?).await?;
    }
    let mut rows = Vec::new();
    for clients in [1, 4, 16, 32] {
        let connections: Arc<Vec<Https>> = Arc::new((0..clients).map(|_| world.client()).collect());
        let (token, pile) = (world.token.clone(), pile.clone());
        let usage = usage(world).await?;
        let load = closed_loop(clients, plan.length, move |client, _| {
            let (connections, token, pile) = (connections.clone(), token.clone(), pile.clone());
            async move { upload(&connections[client], &token, pile.next().await?).await }
        });
        let load = load.await;
        let what = json!({ "what": "as fast as they can", "clients": clients });
        let mut row = row(&what, &load, &usage.end().servers);
        if clients == 16 {
            at_least(&mut row, "per_second", f64::from(UPLOADS_PER_SECOND));
        }
        rows.push(checked(row)?);
    }
    rows.push(checked(steady(plan, world, &pile).await?)?);
    Ok(rows)
}

/// Says in a row what is required at least of one of its fields, and whether that is met.
fn at_least(row: &mut Value, field: &str, least: f64) {
    row["required"] = format!("{field} >= {least}").into();
    row["met"] = (number(&row[field]) >= least).into();
}

/// Uploads at the rate that is required, whether or not earlier ones are answered; times count from when each was due.
async fn steady(plan: &Plan, world: &World, pile: &Pile) -> Fallible<Value> {
    let connections: Arc<Vec<Https>> = Arc::new((0..CONNECTIONS).map(|_| world.client()).collect());
    let all = Arc::new(Mutex::new(Load { times: histogram(), errors: 0, problem: None, seconds: 0.0 }));
    let mut tick = interval(Duration::from_secs(1) / UPLOADS_PER_SECOND);
    // What the machine could not send in time is sent at once: the rate holds.
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let usage = usage(world).await?;
    let (start, mut sent, mut n) = (Instant::now(), tokio::task::JoinSet::new(), 0);
    while start.elapsed() < plan.length {
        let due = tick.tick().await;
        let (all, connections, token, body) =
            (all.clone(), connections.clone(), world.token.clone(), pile.next().await?);
        sent.spawn(async move {
            let done = upload(&connections[n % CONNECTIONS], &token, body).await;
            let took = u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let mut all = all.lock().await;
            match done {
                Ok(()) => all.times.saturating_record(took),
                Err(problem) => {
                    all.errors += 1;
                    all.problem.get_or_insert(problem);
                }
            }
        });
        n += 1;
    }
    while let Some(done) = sent.join_next().await {
        done?;
    }
    let mut all = all.lock().await;
    all.seconds = start.elapsed().as_secs_f64();
    let what = json!({ "what": format!("{UPLOADS_PER_SECOND} a second"), "clients": CONNECTIONS });
    let mut row = row(&what, &all, &usage.end().servers);
    require(&mut row, "p99_ms", UPLOAD_MS);
    Ok(row)
}

/// First uploads under new policies and uploads under one that has its key, in turn, by one client.
pub async fn first_uploads(plan: &Plan, world: &World, bodies: &[Body]) -> Fallible<Vec<Value>> {
    let client = world.client();
    let (mut known, mut fresh) = (histogram(), histogram());
    for n in 0..plan.policies {
        let pair = [(&mut known, KNOWN[2].to_owned()), (&mut fresh, policy(n))];
        for ((times, policy), body) in pair.into_iter().zip(&bodies[2 * n..]) {
            let request = body.under(&policy);
            let asked = Instant::now();
            upload(&client, &world.token, request).await?;
            times.saturating_record(u64::try_from(asked.elapsed().as_nanos())?);
        }
    }
    let figures = |what: &str, times: &Histogram<u64>| json!({ "what": what, "operations": times.len(), "p50_ms": ms(times, 0.5), "p99_ms": ms(times, 0.99) });
    let mut new = figures("new, 4 to 8 conditions", &fresh);
    new["over_ms"] = hundredths(ms(&fresh, 0.5) - ms(&known, 0.5)).into();
    require(&mut new, "over_ms", FIRST_OVER_MS);
    Ok(vec![figures("has its key", &known), new])
}
