//! `cinnabar abe bench`: what the operations cost on this machine.
//!
//! Single thread; each figure is the least processor time over a number of runs, because on a shared machine everything
//! but the least is somebody else's work. Unit costs are measured in the same run, so that ratios hold where absolute
//! figures do not. *Cold* is a key that was just read (empty caches); *warm* the same key after two uses, when
//! all that is ever kept is kept.

use std::hint::black_box;

use cinnabar_abe::danger::units::Units;
use cinnabar_abe::limits::Limits;
use cinnabar_abe::{AttributeKey, Attributes, Ciphertext, Policy, PublicKey, SystemSecretKey, setup};
use cinnabar_daemon::allocator;
use clap::Args;
use getrandom::SysRng;
use rand_core::UnwrapErr;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Map, Value, json};

use super::system_rng;
use crate::cli::error::CliError;
use crate::cli::report::{self, Format};

/// Least and most runs of a figure.
const RUNS_MIN: usize = 20;
const RUNS_MAX: usize = 10_000;
/// Unit costs are microseconds: each run repeats one this often.
const UNIT_REPEATS: u32 = 10;
/// Decryptions and the reading of policies are short: they run this many times as often, so that the least of them is as
/// sure as that of the unit costs it is compared to.
const SHORT_RUNS_FACTOR: usize = 10;
const PLAINTEXT: &[u8] = &[7; 32];

/// How often `bench` runs.
#[derive(Args)]
pub struct BenchArgs {
    /// Runs of each figure; the least is reported.
    #[arg(long, default_value_t = RUNS_MIN as u64, value_parser = clap::value_parser!(u64).range(RUNS_MIN as u64..=RUNS_MAX as u64))]
    runs: u64,
}

/// Runs the benchmark and prints it.
pub fn run(args: &BenchArgs, format: Format) -> Result<(), CliError> {
    let runs = usize::try_from(args.runs).unwrap_or(RUNS_MAX);
    let before = units(runs);
    let mut bench = Bench::new(runs)?;
    let mut ops = Map::new();
    for (name, conditions, mixed) in
        [("and1", 1, false), ("and10", 10, false), ("and50", 50, false), ("mixed50", 50, true)]
    {
        ops.insert(name.to_owned(), bench.operation(conditions, mixed)?);
    }
    // Once more after the operations: a machine that changed its pace in between must not bend the ratios.
    let units = least_of(&before, &units(runs));
    let and50 = &ops["and50"];
    let result = json!({
        "cpu": cpu(),
        "commit": env!("CINNABAR_COMMIT"),
        "runs": runs,
        "ops": ops,
        "units_us": units,
        "bounds_ms": bounds(&units),
        "ratio": { "decrypt_and50_over_floor": number(and50, "decrypt_over_floor") },
    });
    match format {
        Format::Json => report::print(format, &result, None),
        Format::Text => report::print_text(&table(&result)),
    }
}

// === Measuring ===

/// Processor time of this thread in seconds.
fn cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

/// The least processor time of `run` in milliseconds; `prepare` is not counted.
fn least_ms<T, R>(runs: usize, mut prepare: impl FnMut() -> T, mut run: impl FnMut(&T) -> R) -> f64 {
    let mut least = f64::INFINITY;
    for _ in 0..runs {
        let input = prepare();
        let start = cpu_seconds();
        let output = black_box(run(black_box(&input)));
        least = least.min(cpu_seconds() - start);
        drop(output);
    }
    round(least * 1e3)
}

/// Two operations compared.
struct Pair {
    /// Least processor time of each, in milliseconds.
    least_ms: [f64; 2],
    /// Median of the ratios of the first to the second, turn by turn.
    ratio: f64,
}

/// Runs two operations in turn: what is compared must have met the same moods of the machine, whose pace changes by more
/// than what is to be seen. So the ratio is taken within each turn, and its median over all of them.
fn in_turn(runs: usize, mut one: impl FnMut(), mut other: impl FnMut()) -> Pair {
    let mut least = [f64::INFINITY; 2];
    let mut ratios = Vec::with_capacity(runs);
    for _ in 0..runs {
        let start = cpu_seconds();
        one();
        let middle = cpu_seconds();
        other();
        let times = [middle - start, cpu_seconds() - middle];
        least = [least[0].min(times[0]), least[1].min(times[1])];
        ratios.push(times[0] / times[1]);
    }
    ratios.sort_by(f64::total_cmp);
    Pair { least_ms: least.map(|seconds| round(seconds * 1e3)), ratio: round(ratios[runs / 2]) }
}

/// To four significant digits, so that a report reads well.
fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powf(3.0 - value.abs().log10().floor());
    (value * scale).round() / scale
}

fn number(object: &Value, field: &str) -> f64 {
    object[field].as_f64().expect("a figure of this report")
}

fn units(runs: usize) -> Value {
    let units = Units::new();
    type Operation = fn(&Units);
    let operations: [(&str, Operation); 14] = [
        ("miller_loop", Units::miller_loop),
        ("miller_loop_11", Units::miller_loop_11),
        ("final_exp", Units::final_exp),
        ("g1_mult", Units::g1_mult),
        ("g2_mult", Units::g2_mult),
        ("in_g1", Units::in_g1),
        ("in_g2", Units::in_g2),
        ("hash_to_g1", Units::hash_to_g1),
        ("g1_tables_6", Units::g1_tables_6),
        ("g1_sum_2", Units::g1_sum_2),
        ("g1_sum_3", Units::g1_sum_3),
        ("g1_comb", Units::g1_comb),
        ("gt_exp_2", Units::gt_exp_2),
        ("timer", |_| {}),
    ];
    let mut out = Map::new();
    for (name, operation) in operations {
        let repeated = |units: &&Units| (0..UNIT_REPEATS).for_each(|_| operation(units));
        let ms = least_ms(runs, || &units, repeated);
        out.insert(name.to_owned(), json!(round(ms * 1e3 / f64::from(UNIT_REPEATS))));
    }
    Value::Object(out)
}

fn least_of(one: &Value, other: &Value) -> Value {
    let names = one.as_object().expect("unit costs").keys();
    names.map(|name| (name.clone(), json!(number(one, name).min(number(other, name))))).collect::<Map<_, _>>().into()
}

/// What no decryption without repeated labels can go below: its pairings and its group checks.
fn decrypt_floor(units: &Units) {
    units.miller_loop_11();
    units.final_exp();
    (0..8).for_each(|_| units.in_g2());
    (0..3).for_each(|_| units.in_g1());
}

/// What bounds the figures for 50 conditions: the sums of their group operations at unit cost, 51 wires or labels with
/// the transform's own. A cold operation adds 12 hashes for each of 50 labels, and multiplies
/// U0 and U1 apart.
fn bounds(units: &Value) -> Value {
    let unit = |name| number(units, name) / 1e3;
    let wires = 51.0;
    let shares = wires * 6.0 * unit("g1_comb");
    let oracle = wires * (unit("g1_tables_6") + 3.0 * unit("g1_sum_2"));
    let fixed = 16.0 * unit("g2_mult") + unit("gt_exp_2");
    let parts = (wires + 1.0)
        * (unit("g1_tables_6") * 8.0 / 6.0 + 2.0 * unit("g1_sum_3") + 4.0 * unit("g1_sum_2") + 4.0 * unit("g1_comb"));
    let hashes = 50.0 * 12.0 * unit("hash_to_g1");
    json!({
        "encrypt_and50_warm": { "shares": round(shares), "oracle_products": round(oracle), "g2_and_gt": round(fixed), "sum": round(shares + oracle + fixed) },
        "keygen_and50_warm": { "parts": round(parts), "sum": round(parts) },
        "cold_adds": { "hashes": round(hashes) },
    })
}

// === Operations ===

struct Bench {
    runs: usize,
    units: Units,
    rng: UnwrapErr<SysRng>,
    public: PublicKey,
    secret: SystemSecretKey,
}

impl Bench {
    fn new(runs: usize) -> Result<Self, CliError> {
        let mut rng = system_rng()?;
        let (public, secret) = setup(&mut rng).map_err(CliError::abe("setup"))?;
        Ok(Self { runs, units: Units::new(), rng, public, secret })
    }

    /// All figures of one policy: `conditions` distinct labels, joined by `and`, or by `and` and `or` in turn.
    fn operation(&mut self, conditions: usize, mixed: bool) -> Result<Value, CliError> {
        let failed = || CliError::abe("benchmark");
        let text = policy_text(conditions, mixed);
        let policy = Policy::parse(&text).map_err(|error| failed()(error.into()))?;
        let attributes =
            Attributes::new((0..conditions).map(|i| (format!("k{i}"), format!("v{i}")))).map_err(failed())?;

        let (public_bytes, secret_bytes) = (self.public.to_bytes(), self.secret.to_bytes());
        let read_public = || PublicKey::from_bytes(&public_bytes).expect("a key that was just written");
        let read_secret = || SystemSecretKey::from_bytes(secret_bytes.expose()).expect("a key that was just written");
        let rng = &mut self.rng;
        let mut keygen = |secret: &SystemSecretKey| secret.keygen(rng, &attributes).expect("attributes that fit");
        let keygen_cold = least_ms(self.runs, read_secret, &mut keygen);
        let secret = read_secret();
        keygen(&secret);
        let key_bytes = keygen(&secret).to_bytes();
        let keygen_warm = least_ms(self.runs, || &secret, |secret| keygen(secret));

        let rng = &mut self.rng;
        let limits = Limits::default();
        let mut encrypt =
            |public: &PublicKey| public.encrypt_with(rng, &policy, PLAINTEXT, &limits).expect("a policy that fits");
        let encrypt_cold = least_ms(self.runs, read_public, &mut encrypt);
        let public = read_public();
        encrypt(&public);
        let ciphertext = encrypt(&public);
        let encrypt_warm = least_ms(self.runs, || &public, |public| encrypt(public));

        let bytes = ciphertext.as_bytes();
        let read_key = || AttributeKey::from_bytes(key_bytes.expose()).expect("a key that was just written");
        let decrypt = |key: &AttributeKey| {
            let opened = Ciphertext::from_bytes(bytes).and_then(|ciphertext| key.decrypt(&ciphertext));
            assert_eq!(opened.expect("a satisfying key").expose(), PLAINTEXT, "a decryption must be right to count");
        };
        let key = read_key();
        decrypt(&key);
        let short_runs = self.runs * SHORT_RUNS_FACTOR;
        let decryption = in_turn(short_runs, || decrypt(&key), || decrypt_floor(&self.units));
        let could_decrypt = least_ms(short_runs, || (), |()| assert!(key.attributes().could_decrypt(bytes)));
        let extract = least_ms(short_runs, || (), |()| Policy::extract(bytes).expect("a ciphertext"));
        // The first decryption of a key prepares its tables: the peak is taken there.
        let fresh = read_key();
        let ((), peak) = allocator::peak_bytes(|| decrypt(&fresh));
        Ok(json!({
            "keygen_cold_ms": keygen_cold,
            "keygen_warm_ms": keygen_warm,
            "encrypt_cold_ms": encrypt_cold,
            "encrypt_warm_ms": encrypt_warm,
            "decrypt_ms": decryption.least_ms[0],
            "decrypt_floor_ms": decryption.least_ms[1],
            "decrypt_over_floor": decryption.ratio,
            "could_decrypt_us": round(could_decrypt * 1e3),
            "extract_policy_us": round(extract * 1e3),
            "decrypt_peak_bytes": peak,
            "attribute_key_bytes": key_bytes.len(),
            "ciphertext_overhead_bytes": bytes.len() - PLAINTEXT.len(),
        }))
    }
}

fn policy_text(conditions: usize, mixed: bool) -> String {
    let mut text = String::new();
    for i in 0..conditions {
        let operator = if mixed && i % 2 == 0 { " or " } else { " and " };
        text.push_str(if i == 0 { "" } else { operator });
        text.push_str(&format!("k{i}: v{i}"));
    }
    text
}

// === Printing ===

/// The processor's name as the system gives it.
fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or("unknown", |(_, name)| name.trim()).to_owned()
}

fn table(result: &Value) -> String {
    let text = |field: &str| result[field].as_str().unwrap_or_default().to_owned();
    let mut out =
        format!("{}, commit {}, least of {} runs, one thread\n\n", text("cpu"), text("commit"), result["runs"]);
    let columns = ["and1", "and10", "and50", "mixed50"];
    out.push_str(&format!("{:28}{:>10}{:>10}{:>10}{:>10}\n", "", columns[0], columns[1], columns[2], columns[3]));
    let rows = result["ops"]["and1"].as_object().expect("a report has operations");
    for row in rows.keys() {
        out.push_str(&format!("{:28}", row.replace('_', " ")));
        for column in columns {
            out.push_str(&format!("{:>10}", result["ops"][column][row].to_string()));
        }
        out.push('\n');
    }
    out.push_str("\nunit costs, us\n");
    for (name, value) in result["units_us"].as_object().expect("a report has unit costs") {
        out.push_str(&format!("  {:26}{:>10}\n", name.replace('_', " "), value.to_string()));
    }
    out.push_str(&format!("\nbounds, ms: {}\n", result["bounds_ms"]));
    out.push_str(&format!("decrypt and50 over its floor: {}\n", result["ratio"]["decrypt_and50_over_floor"]));
    out
}
