//! An edge node that starts again with many certificates and policies in its store: until it is ready, and until the
//! first handshake with a key of its own after that.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;

use crate::child::Child;
use crate::cinnabar::BINARY;
use crate::handshake::{is_ready, visit};
use crate::report::{hundredths, median_of, require};
use crate::upload::{DOMAIN, Demo, Issuer};
use crate::{Fallible, Plan};

/// Whose edge node: its machine satisfies every policy of the part.
const WHERE: &str = "fra";
/// Customers that upload at once.
const CUSTOMERS: usize = 8;
/// Longest until the edge node is ready, in seconds.
const READY_S: f64 = 3.0;
/// Longest until the first handshake after that, in milliseconds.
const HANDSHAKE_MS: f64 = 50.0;
/// Longest wait for anything here.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Policies that differ from each other, all satisfied in Frankfurt: which others are left out, as bits.
fn policy(n: usize) -> String {
    let base = ["region: EU", "(region: EU or country: US)"][n / 127 % 2];
    let others = ["iad", "gru", "lhr", "nrt", "cdg", "mad", "ams"].iter().enumerate();
    let named = others.filter(|(bit, _)| (n % 127 + 1) >> bit & 1 == 1);
    named.fold(base.to_owned(), |policy, (_, name)| format!("{policy} and (not dc: {name})"))
}

/// Fills the store through the customers' interface.
async fn fill(demo: &Arc<Demo>, issuer: &Arc<Issuer>, certificates: usize, policies: usize) -> Fallible<()> {
    let mut uploads = JoinSet::new();
    for customer in 0..CUSTOMERS {
        let (demo, issuer) = (demo.clone(), issuer.clone());
        uploads.spawn(async move {
            let connection = demo.customer();
            for n in (customer..certificates).step_by(CUSTOMERS) {
                let body = issuer.body(&format!("c{n}.{DOMAIN}"), &policy(n % policies))?;
                demo.upload(&connection, body).await?;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        });
    }
    while let Some(done) = uploads.join_next().await {
        done??;
    }
    Ok(())
}

/// Ends the demonstration's own process.
async fn end(demo: &Demo, admin: &str) -> Fallible<()> {
    let processes = demo.told["processes"].as_array().cloned().unwrap_or_default();
    let edge = processes.iter().find(|process| process["name"] == WHERE && process["role"] == "edge");
    let pid = edge.and_then(|process| process["pid"].as_i64()).ok_or("no edge node to start again")?;
    kill_process(Pid::from_raw(i32::try_from(pid)?).ok_or("no process id")?, Signal::TERM)?;
    let begun = Instant::now();
    while cinnabar_daemon::Env::system().net.dial(admin).await.is_ok() {
        if begun.elapsed() > WAIT_MAX {
            return Err("the edge node does not end".into());
        }
        sleep(LOOK_EVERY).await;
    }
    // Its lock on the folder goes last.
    sleep(Duration::from_secs(2)).await;
    Ok(())
}

/// The rows of the part.
pub async fn run(plan: &Plan, demo: &Arc<Demo>, issuer: &Arc<Issuer>, visitor: &TlsConnector) -> Fallible<Vec<Value>> {
    let (certificates, policies) = if plan.quick { (300, 20) } else { (10_000, 200) };
    plan.progress(&format!("cold: uploading {certificates} certificates under {policies} policies"));
    fill(demo, issuer, certificates, policies).await?;
    let centers = demo.told["data_centers"].as_array().cloned().unwrap_or_default();
    let center = centers.iter().find(|center| center["data_center"] == WHERE).ok_or("no such data centre")?;
    let text = |field: &str| center[field].as_str().map(str::to_owned).ok_or("no address");
    let (admin, visitors): (String, SocketAddr) = (text("admin")?, text("visitors")?.parse()?);
    // Paths of the demonstration's files are relative to its folder.
    let config = std::fs::read_to_string(demo.folder.join(WHERE).join("edge.toml"))?;
    let config = config.replace(&format!("\"{WHERE}/"), &format!("\"{}/{WHERE}/", demo.folder.display()));
    let (file, log) = (demo.folder.join("cold.toml"), demo.folder.join("cold.log"));
    std::fs::write(&file, config)?;
    let args = ["edge".to_owned(), "--config".to_owned(), file.display().to_string()];
    end(demo, &admin).await?;
    let mut runs = Vec::new();
    for round in 0..plan.repeats {
        plan.progress(&format!("cold: start {}", round + 1));
        let begun = Instant::now();
        let mut process = Child::start(Path::new(BINARY), &args, log.clone())?;
        while !is_ready(&admin).await {
            if begun.elapsed() > WAIT_MAX || !process.runs()? {
                return Err(format!("not ready: {}", std::fs::read_to_string(&log)?).into());
            }
            sleep(LOOK_EVERY).await;
        }
        let (ready, since) = (begun.elapsed(), Instant::now());
        let name = format!("c{}.{DOMAIN}", round * 7 % certificates);
        while let Err(problem) = visit(visitor, visitors, &name).await {
            if since.elapsed() > WAIT_MAX {
                return Err(format!("{name} is not served: {problem}").into());
            }
            sleep(Duration::from_millis(1)).await;
        }
        runs.push(json!({ "certificates": certificates, "policies": policies,
            "ready_s": hundredths(ready.as_secs_f64()),
            "handshake_ms": hundredths(since.elapsed().as_secs_f64() * 1e3) }));
        process.end(Signal::TERM)?;
    }
    let mut row = median_of(&runs);
    require(&mut row, "ready_s", READY_S);
    require(&mut row, "handshake_ms", HANDSHAKE_MS);
    Ok(vec![row])
}
