//! Signatures through the Unix socket of a node: by calls of their own, and over one stream; beside the library alone.

use std::sync::Arc;

use bytes::Bytes;
use cinnabar_edge_api::Input;
use cinnabar_edge_api::client::EdgeClient;
use serde_json::{Value, json};

use crate::load::{Load, closed_loop, quantile_us};
use crate::machine::Usage;
use crate::material::{Customer, Material, NEAR};
use crate::node::Node;
use crate::report::{hundredths, median_of};
use crate::sign::{SHARE, keys, raw};
use crate::tables::at_least;
use crate::{Fallible, Plan};

/// Requests in flight.
const CLIENTS: usize = 64;

/// Asks for signatures in closed loops.
pub async fn ask(plan: &Plan, client: &EdgeClient, customer: &Customer, clients: usize, stream: bool) -> Load {
    let request = Arc::new(customer.request());
    let client = client.clone();
    closed_loop(clients, plan.length, move |_, _| {
        let (client, request) = (client.clone(), request.clone());
        async move {
            let request = (*request).clone();
            let answer = if stream { client.sign(request).await } else { client.sign_once(request).await };
            answer.map(drop).map_err(|refusal| refusal.to_string())
        }
    })
    .await
}

/// A load without a single error.
pub fn clean(load: &Load) -> Fallible<()> {
    match &load.problem {
        Some(problem) => Err(format!("{} of {} failed: {problem}", load.errors, load.operations()).into()),
        None => Ok(()),
    }
}

/// The rows of the part.
pub async fn run(plan: &Plan, material: &Material) -> Fallible<Vec<Value>> {
    let node = Node::start(material, NEAR).await?;
    let client = node.client();
    let mut rows = Vec::new();
    for (name, scheme, key) in keys()? {
        let wanted = if key.is_rsa() { "local-rsa.example" } else { "local-p256.example" };
        let customer = material.customers.iter().find(|customer| customer.hostname == wanted).ok_or("no customer")?;
        let points = [("unary", CLIENTS), ("stream", CLIENTS), ("unary", 1), ("stream", 1)];
        let mut runs: Vec<Vec<Value>> = vec![Vec::new(); points.len()];
        for round in 0..plan.repeats {
            plan.progress(&format!("stream: {name}, round {}", round + 1));
            for ((call, clients), runs) in points.iter().zip(&mut runs) {
                // Beside each run, so that both meet the same machine.
                let input = Input::Digest(Bytes::from_static(&[7; 32]));
                let (span, of_raw) = (plan.length / 8, key.clone());
                let raw = tokio::task::spawn_blocking(move || raw(span, &of_raw, scheme, &input)).await?;
                let usage = Usage::begin(&[node.pid()]);
                let load = ask(plan, &client, customer, *clients, *call == "stream").await;
                clean(&load)?;
                let used = usage.end();
                let each = |seconds: f64| seconds * 1e6 / load.operations() as f64;
                let (edge, ours) = (each(used.servers[0]), each(used.own));
                let share = |us: f64| (1e9 / raw / us).round() / 1000.0;
                runs.push(json!({ "key": name, "call": call, "clients": clients,
                    "per_second": hundredths(load.per_second()), "p50_us": quantile_us(&load.times, 0.5),
                    "p99_us": quantile_us(&load.times, 0.99), "raw_us": hundredths(1e6 / raw),
                    "edge_cpu_us": hundredths(edge), "client_cpu_us": hundredths(ours),
                    "call_us": hundredths(edge - 1e6 / raw), "share": share(edge),
                    "share_with_client": share(edge + ours), "others": hundredths(used.others) }));
            }
        }
        for runs in runs {
            let mut row = median_of(&runs);
            if key.is_rsa() && row["call"] == "stream" && row["clients"] == CLIENTS {
                at_least(&mut row, "share", SHARE);
            }
            rows.push(row);
        }
    }
    Ok(rows)
}
