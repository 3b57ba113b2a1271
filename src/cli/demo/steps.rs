//! What the demonstration shows, step by step, each with what must hold.

use std::net::SocketAddr;
use std::time::Duration;

use cinnabar_daemon::Env;

use super::customer::{self, HOST, POLICY};
use super::probe::{Visit, Visitor};
use super::sites::{SITES, Site};
use super::world::World;
use super::{mark, say};
use crate::cli::connect::block_on;
use crate::cli::error::CliError;

/// Data centres whose machines satisfy [`POLICY`].
pub const HOLDERS: [&str; 3] = ["fra", "ams", "mad"];
/// The data centre that is lost: one that others ask.
const LOST: &str = "ams";
/// The machine that is revoked: one that must ask.
const REVOKED: &str = "gru";
/// Longest until every data centre serves an upload.
const SERVED_MAX: Duration = Duration::from_secs(20);
/// Longest until a revoked machine is refused.
const REFUSED_MAX: Duration = Duration::from_secs(20);
/// How long is visited after a data centre is lost.
const AFTER_LOSS: Duration = Duration::from_secs(6);
/// Exit code of a command whose policy is refused.
const EXIT_POLICY: i32 = 6;
/// Pause between visits of one data centre then.
const VISIT_EVERY: Duration = Duration::from_millis(50);

fn failed(problem: impl Into<String>) -> CliError {
    CliError::Failed(problem.into())
}

fn at(world: &World, id: &str) -> SocketAddr {
    let n = SITES.iter().position(|site| site.id == id).expect("only names of SITES are asked for");
    world.places[n].visitors
}

fn visit(visitor: &Visitor, at: SocketAddr) -> Result<Visit, String> {
    let visitor = visitor.fresh();
    block_on(async { visitor.once(HOST, at).await.map_err(failed) }).map_err(|error| error.to_string())
}

/// Step 1: two certificates go up, and every data centre serves them.
pub fn upload(world: &World, visitor: &Visitor, curl: bool) -> Result<Vec<String>, CliError> {
    say("1  Upload a certificate, as existing tools do it")?;
    say(format!("   $ {}", customer::shown(world)))?;
    let clock = Env::system().clock;
    let mut ids = Vec::new();
    for (name, _) in customer::CERTIFICATES {
        let begun = clock.now();
        let id = customer::upload(world, name, curl)?;
        say(format!("   ✔ {name}: stored as {id} in {:.0} ms", begun.elapsed().as_secs_f64() * 1000.0))?;
        ids.push(id);
    }
    let begun = clock.now();
    for (site, place) in SITES.iter().zip(&world.places) {
        while let Err(problem) = visit(visitor, place.visitors) {
            if begun.elapsed() > SERVED_MAX {
                return Err(failed(format!("{} does not serve {HOST}: {problem}", site.id)));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let held = customer::customer(world, &["policy", "check", POLICY])?;
    let names: Vec<&str> =
        held["holders"]["data_centers"].as_array().into_iter().flatten().filter_map(|name| name.as_str()).collect();
    say(format!(
        "   ✔ all 8 data centres answer {:.1} s later; by the policy {POLICY}",
        begun.elapsed().as_secs_f64()
    ))?;
    say(format!("     the key can be opened in {} alone\n", names.join(", ")))?;
    let mut expected = HOLDERS.to_vec();
    let mut names = names;
    expected.sort_unstable();
    names.sort_unstable();
    if names != expected {
        return Err(failed(format!("the preview says {names:?}, expected {expected:?}")));
    }
    Ok(ids)
}

/// Step 2: a visitor at every data centre.
pub fn visits(world: &World, visitor: &Visitor, rsa: bool) -> Result<(), CliError> {
    if !rsa {
        say("2  Real HTTPS at every data centre: a first connection, and a second one that resumes its session")?;
        say(format!("   $ {}", visitor.shown(HOST, world.places[0].visitors)))?;
    } else {
        say("   The same with the RSA certificate, in TLS 1.2, where curl takes no tickets and so resumes nothing")?;
    }
    say("   data centre  country  key here?  signed by  signature ms  handshake ms  resumed ms")?;
    for (site, place) in SITES.iter().zip(&world.places) {
        let visited = visitor.twice(HOST, place.visitors, rsa);
        let (first, second) = visited.map_err(|problem| failed(format!("{}: {problem}", site.id)))?;
        let holds = HOLDERS.contains(&site.id);
        let by = first.signed_by.as_str();
        let resumed = match rsa && visitor.uses_curl() {
            true => "-".to_owned(),
            false => format!("{:.1}", second.handshake_ms),
        };
        say(format!(
            "   {:11}  {:7}  {:9}  {:9}  {:12.1}  {:12.1}  {resumed:>10}{}",
            site.id,
            site.country,
            if holds { "yes" } else { "no" },
            by,
            first.signature_ms,
            first.handshake_ms,
            excluded(site)
        ))?;
        if !HOLDERS.contains(&by) || (holds && by != site.id) {
            return Err(failed(format!("{}: signed by {by:?}", site.id)));
        }
        if !second.signed_by.is_empty() && resumed != "-" {
            return Err(failed(format!("{}: the second connection was not resumed", site.id)));
        }
    }
    say("   ✔ 8 of 8 verified; no signature was made outside fra, ams, mad\n")
}

fn excluded(site: &Site) -> &'static str {
    if site.country == "FR" { "   excluded by the policy" } else { "" }
}

/// Step 3: what is refused before anything is stored.
pub fn mistakes(world: &World) -> Result<(), CliError> {
    say("3  Mistakes are caught before anything is stored")?;
    let cases = [
        ("(country: US) and (region: EU)", "error[no-data-centre]", "did you mean `or`?", EXIT_POLICY),
        ("(region: EU) (not country: FR)", "error[left-over]", "^ join the two parts", EXIT_POLICY),
        ("country: DE", "[few-holders]", "Only 1 data centre would hold this key.", 0),
    ];
    for (policy, code, hint, exit) in cases {
        say(format!("   $ cinnabar policy check '{policy}'"))?;
        let output = customer::customers_command(world, &["policy", "check", policy]).output();
        let output = output.map_err(|error| failed(error.to_string()))?;
        let ended = output.status.code();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        for line in text.lines() {
            say(format!("   {line}"))?;
        }
        if !text.contains(code) || !text.contains(hint) || ended != Some(exit) {
            return Err(failed(format!("`{policy}`: expected {code} and exit code {exit}, not {ended:?}")));
        }
    }
    say("")
}

/// Step 5: a data centre is lost.
pub fn lose(world: &mut World, visitor: &Visitor) -> Result<(), CliError> {
    say(format!("5  {LOST} is lost: its processes are killed"))?;
    let before = signers(world, visitor, LOST)?;
    for started in world.running.iter_mut().filter(|started| started.process.name == LOST) {
        started.kill();
    }
    let lost = |site: &&Site| site.id != LOST;
    let visitor = visitor.fresh();
    let survivors: Vec<(&str, SocketAddr)> =
        SITES.iter().filter(lost).map(|site| (site.id, at(world, site.id))).collect();
    let (mut visits, mut problems) = (0_u32, Vec::new());
    block_on(async {
        let begun = Env::system().clock.now();
        let mut tasks = tokio::task::JoinSet::new();
        for (id, at) in survivors {
            let visitor = visitor.clone();
            tasks.spawn(async move {
                let (mut visits, mut problems) = (0, Vec::new());
                while begun.elapsed() < AFTER_LOSS {
                    match visitor.once(HOST, at).await {
                        Ok(_) => visits += 1,
                        Err(problem) => problems.push(format!("{id}: {problem}")),
                    }
                    tokio::time::sleep(VISIT_EVERY).await;
                }
                (visits, problems)
            });
        }
        while let Some(done) = tasks.join_next().await {
            let (made, found) = done.map_err(|error| failed(error.to_string()))?;
            visits += made;
            problems.extend(found);
        }
        Ok::<_, CliError>(())
    })?;
    let after = signers(world, &visitor, LOST)?;
    for (was, now) in before.iter().zip(&after).filter(|(was, now)| was.by != now.by) {
        let (id, from, to) = (was.id, &was.by, &now.by);
        say(format!("   {id}: asked {from} ({:.0} ms), now asks {to} ({:.0} ms)", was.handshake_ms, now.handshake_ms))?;
    }
    say(format!(
        "   {} {} handshakes at the others after the kill, {} failed\n",
        mark(problems.is_empty()),
        visits,
        problems.len()
    ))?;
    match problems.first() {
        Some(problem) => Err(failed(format!("a handshake failed after {LOST} was lost: {problem}"))),
        None if visits == 0 => Err(failed("nobody visited")),
        None => Ok(()),
    }
}

/// Who signs for a data centre, and how long a handshake there takes.
struct Asked {
    id: &'static str,
    by: String,
    handshake_ms: f64,
}

/// Asks at every data centre but one.
fn signers(world: &World, visitor: &Visitor, without: &str) -> Result<Vec<Asked>, CliError> {
    let sites = SITES.iter().filter(|site| site.id != without);
    let asked = sites.map(|site| {
        let seen = visit(visitor, at(world, site.id)).map_err(|problem| failed(format!("{}: {problem}", site.id)))?;
        Ok(Asked { id: site.id, by: seen.signed_by, handshake_ms: seen.handshake_ms })
    });
    asked.collect()
}

/// Step 6: a machine is revoked.
pub fn revoke(world: &World, visitor: &Visitor) -> Result<(), CliError> {
    say(format!("6  A machine is revoked: {REVOKED}-1 may ask nobody for a signature any more"))?;
    say(format!("   $ cinnabar machine revoke {REVOKED}-1 --reason 'left the network'"))?;
    visit(visitor, at(world, REVOKED)).map_err(|problem| failed(format!("{REVOKED} before: {problem}")))?;
    let clock = Env::system().clock;
    let begun = clock.now();
    world.operate(&["machine", "revoke", &format!("{REVOKED}-1"), "--reason", "left the network"])?;
    let refused = loop {
        match visit(visitor, at(world, REVOKED)) {
            Err(problem) => break problem,
            Ok(_) if begun.elapsed() > REFUSED_MAX => return Err(failed(format!("{REVOKED} is served still"))),
            Ok(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    say(format!("   ✔ refused {:.1} s later: {refused}", begun.elapsed().as_secs_f64()))?;
    visit(visitor, at(world, "iad")).map_err(|problem| failed(format!("iad: {problem}")))?;
    say("   ✔ the others go on")
}
