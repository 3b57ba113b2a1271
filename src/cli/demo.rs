//! `cinnabar demo`: the whole system on loopback, doing its main job before your eyes.
//!
//! The road: [`world`] makes folder, certificates and processes; [`customer`] uploads two certificates; [`steps`] visits
//! every data centre, shows what is refused, attacks the key where it must not be, loses a data centre, revokes a
//! machine. Law: nothing is pretended but distance, and that is said; every figure is measured in the run that prints it.

mod customer;
mod probe;
mod processes;
mod proof;
mod sites;
mod steps;
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;

use cinnabar_daemon::Env;
use clap::Subcommand;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connect::block_on;
use super::error::CliError;
use super::report::{Format, print, print_text};
use probe::Visitor;
use world::World;

/// `cinnabar demo ...`
#[derive(Subcommand)]
pub enum Demo {
    /// Start everything, show the main job, and leave it running.
    Up {
        /// Folder of the demonstration; what an earlier one left there is ended and removed.
        #[arg(long, value_name = "DIR", default_value = "var/demo")]
        dir: PathBuf,
        /// End everything afterwards, and fail if anything was not as it should be.
        #[arg(long)]
        check: bool,
        /// Visit with the built-in client also where curl is installed.
        #[arg(long)]
        no_curl: bool,
    },
    /// End it, by the process ids that were written down.
    Down {
        /// Its folder.
        #[arg(long, value_name = "DIR", default_value = "var/demo")]
        dir: PathBuf,
    },
}

/// Runs it.
pub fn run(command: Demo, format: Format) -> Result<(), CliError> {
    match command {
        Demo::Up { dir, check, no_curl } => {
            let mut world = World::new(&dir)?;
            let shown = up(&mut world, !no_curl && probe::has_curl(), check);
            if check || shown.is_err() {
                world::down(&world.dir)?;
            }
            shown
        }
        Demo::Down { dir } => print(format, &json!({ "ended": world::down(&dir)? }), None),
    }
}

/// Prints a line at once.
pub fn say(line: impl AsRef<str>) -> Result<(), CliError> {
    print_text(&format!("{}\n", line.as_ref()))
}

/// Did something come out as it must?
fn mark(holds: bool) -> &'static str {
    if holds { "✔" } else { "✘" }
}

/// Does an administrative listener say that its process is ready?
pub fn ready(admin: SocketAddr) -> bool {
    let asked = block_on(async {
        let failed = |error: std::io::Error| CliError::Failed(error.to_string());
        let mut io = Env::system().net.dial(&admin.to_string()).await.map_err(failed)?;
        io.write_all(b"GET /readyz HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n").await.map_err(failed)?;
        let mut head = [0; 12];
        io.read_exact(&mut head).await.map_err(failed)?;
        Ok(head)
    });
    asked.is_ok_and(|head| &head[..] == b"HTTP/1.1 200")
}

fn up(world: &mut World, curl: bool, check: bool) -> Result<(), CliError> {
    let clock = Env::system().clock;
    let begun = clock.now();
    let since = |from: tokio::time::Instant| format!("{:.1} s", from.elapsed().as_secs_f64());
    say("cinnabar demo: everything on 127.0.0.1, each process with a folder of its own")?;
    say(
        "distances between cities are SIMULATED: a round trip takes 13.4 ms + 0.01726 ms/km, below 1000 km 0.3 ms + 0.0157 ms/km\n",
    )?;
    world.issue()?;
    let web = customer::make(world)?;
    world.start_core()?;
    world.start_authority((&web.certificate, &web.key))?;
    say(format!("  ✔ core      3 voters, 1 relay, 1 authority                          {}", since(begun)))?;
    let enrolling = clock.now();
    customer::register(world)?;
    world.start_edges()?;
    let names: Vec<String> = sites::SITES.iter().map(|site| format!("{} {}", site.id, site.country)).collect();
    say(format!("  ✔ edges     {}   {}", names.join(", "), since(enrolling)))?;
    say(format!("  ✔ processes {} with their logs in {}\n", world.running.len(), world.dir.display()))?;
    let visitor = Visitor::new(&world.path("customer/ca.pem"), curl)?;
    let uploaded = steps::upload(world, &visitor, curl)?;
    steps::visits(world, &visitor, false)?;
    steps::visits(world, &visitor, true)?;
    steps::mistakes(world)?;
    proof::cannot_open(world)?;
    steps::lose(world, &visitor)?;
    steps::revoke(world, &visitor)?;
    world.save(&json!({ "certificates": uploaded }))?;
    if check {
        return say(format!("\ndone in {}; everything was as it should be", since(begun)));
    }
    say(format!("\ndone in {}; everything goes on running. To try:", since(begun)))?;
    world.hints(&visitor)
}
