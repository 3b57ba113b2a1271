//! `cinnabar abe`: attribute-based encryption on files.
//!
//! Files hold the objects' own bytes, as `docs/formats.md` lays them out, so other implementations of the format read them.

mod bench;
mod inspect;

use cinnabar_abe::limits::{self, Limits};
use cinnabar_abe::{
    AttributeKey, Attributes, Ciphertext, PointChecks, Policy, PublicKey, SystemSecretKey, Verdict, setup,
};
use clap::{Args, Subcommand};
use getrandom::SysRng;
use rand_core::{TryRng, UnwrapErr};
use serde_json::json;

use super::error::CliError;
use super::files::{Destination, FILE_BYTES_MAX, Secrecy, Source};
use super::report::{self, Format};

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Make a new authority: a public key to encrypt with and a system secret key to issue machine keys with.
    Setup(SetupArgs),
    /// Issue a machine key for a set of attributes.
    Keygen(KeygenArgs),
    /// Encrypt under a policy.
    Encrypt(EncryptArgs),
    /// Open a ciphertext with a machine key (exit code 4 when its attributes do not satisfy the policy).
    Decrypt(DecryptArgs),
    /// Tell what a key or ciphertext file holds, without opening anything.
    Inspect(inspect::InspectArgs),
    /// Tell whether a ciphertext was made by an encryptor with the AND-share defect, so that every key reads it.
    ///
    /// Answers `defective`, `sound` or `cannot tell`, each with exit code 0. With a key that does not satisfy the policy,
    /// `sound` holds only if the ciphertext is of that key's authority: the answer says whether it was opened.
    Audit(AuditArgs),
    /// Measure the operations and print the figures, with processor and commit.
    Bench(bench::BenchArgs),
}

/// Where `setup` writes.
#[derive(Args)]
pub struct SetupArgs {
    /// Where to write the public key.
    #[arg(long, value_name = "FILE", default_value = "system.pub")]
    public_key: Destination,
    /// Where to write the system secret key (mode 0600).
    #[arg(long, value_name = "FILE", default_value = "system.key")]
    secret_key: Destination,
    /// Overwrite files that are there.
    #[arg(long)]
    force: bool,
}

/// What `keygen` issues.
#[derive(Args)]
pub struct KeygenArgs {
    /// An attribute of the machine, such as country=FR; once per label.
    #[arg(long = "attr", value_name = "LABEL=VALUE", required = true, value_parser = parse_attribute)]
    attributes: Vec<(String, String)>,
    /// The system secret key to issue with.
    #[arg(long, value_name = "FILE", default_value = "system.key")]
    secret_key: Source,
    /// Where to write the machine key (mode 0600).
    #[arg(long, value_name = "FILE", default_value = "machine.key")]
    out: Destination,
    /// Overwrite a file that is there.
    #[arg(long)]
    force: bool,
}

/// What `encrypt` reads and writes.
#[derive(Args)]
pub struct EncryptArgs {
    /// Who may open it, such as 'region: EU and not country: FR'.
    #[arg(long)]
    policy: String,
    /// The authority's public key.
    #[arg(long, value_name = "FILE", default_value = "system.pub")]
    public_key: Source,
    /// What to encrypt.
    #[arg(long = "in", value_name = "FILE", default_value = "-")]
    input: Source,
    /// Where to write the ciphertext.
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: Destination,
    /// Most bytes the ciphertext may have. Above the default it no longer fits a record of the store.
    #[arg(long, value_name = "BYTES", default_value_t = limits::CIPHERTEXT_BYTES_MAX as u64,
        value_parser = clap::value_parser!(u64).range(1..=FILE_BYTES_MAX))]
    max_bytes: u64,
    /// Overwrite a file that is there.
    #[arg(long)]
    force: bool,
}

/// What `decrypt` reads and writes.
#[derive(Args)]
pub struct DecryptArgs {
    /// The machine key.
    #[arg(long, value_name = "FILE", default_value = "machine.key")]
    key: Source,
    /// The ciphertext.
    #[arg(long = "in", value_name = "FILE", default_value = "-")]
    input: Source,
    /// Where to write the plaintext (mode 0600).
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: Destination,
    /// Check every point's subgroup as other implementations do, not only the sums that meet a pairing. Slower.
    #[arg(long)]
    strict: bool,
    /// Overwrite a file that is there.
    #[arg(long)]
    force: bool,
}

/// What `audit` reads.
#[derive(Args)]
pub struct AuditArgs {
    /// A machine key of the ciphertext's authority; for policies of one condition, one that satisfies it.
    #[arg(long, value_name = "FILE", default_value = "machine.key")]
    key: Source,
    /// The ciphertext.
    #[arg(value_name = "FILE", default_value = "-")]
    input: Source,
}

/// Runs one of the commands.
pub fn run(command: Command, format: Format) -> Result<(), CliError> {
    match command {
        Command::Setup(args) => run_setup(&args, format),
        Command::Keygen(args) => run_keygen(&args, format),
        Command::Encrypt(args) => run_encrypt(&args, format),
        Command::Decrypt(args) => run_decrypt(&args, format),
        Command::Inspect(args) => inspect::run(&args, format),
        Command::Audit(args) => run_audit(&args, format),
        Command::Bench(args) => bench::run(&args, format),
    }
}

fn parse_attribute(text: &str) -> Result<(String, String), String> {
    let (label, value) = text.split_once('=').ok_or("write it as LABEL=VALUE, such as country=FR")?;
    let trim = |text: &str| text.trim_matches([' ', '\t']).to_owned();
    Ok((trim(label), trim(value)))
}

/// The operating system's generator, once it has shown that it answers.
fn system_rng() -> Result<UnwrapErr<SysRng>, CliError> {
    SysRng.try_next_u32().map_err(|error| CliError::Failed(format!("the system's random numbers: {error}")))?;
    Ok(UnwrapErr(SysRng))
}

fn one_stdin(sources: [&Source; 2]) -> Result<(), CliError> {
    if sources.iter().all(|source| source.is_stdin()) {
        return Err(CliError::Usage("only one argument can be `-`: standard input is read once".to_owned()));
    }
    Ok(())
}

fn run_setup(args: &SetupArgs, format: Format) -> Result<(), CliError> {
    let both_stdout = args.public_key.is_stdout() && args.secret_key.is_stdout();
    if both_stdout || args.public_key.is_same_file(&args.secret_key) {
        return Err(CliError::Usage("--public-key and --secret-key name one file: choose two".to_owned()));
    }
    args.public_key.check_free(args.force)?;
    args.secret_key.check_free(args.force)?;
    let (public, secret) = setup(&mut system_rng()?).map_err(CliError::abe("setup"))?;
    // Both are on disk before either appears: half a pair is of no use, and replacing half of one destroys it. The secret
    // half, which cannot be made again, goes first.
    let secret_file = args.secret_key.prepare(secret.to_bytes().expose(), Secrecy::Secret, args.force)?;
    let public_file = args.public_key.prepare(&public.to_bytes(), Secrecy::Public, args.force)?;
    secret_file.commit()?;
    public_file.commit()?;
    let result = json!({
        "public_key": args.public_key.to_string(),
        "secret_key": args.secret_key.to_string(),
    });
    let data = if args.secret_key.is_stdout() { &args.secret_key } else { &args.public_key };
    report::print(format, &result, Some(data))
}

fn run_keygen(args: &KeygenArgs, format: Format) -> Result<(), CliError> {
    args.out.check_free(args.force)?;
    let attributes = Attributes::new(args.attributes.iter().map(|(label, value)| (label, value)))
        .map_err(CliError::abe("--attr"))?;
    let secret =
        SystemSecretKey::from_bytes(&args.secret_key.read()?).map_err(CliError::abe(args.secret_key.to_string()))?;
    let key = secret.keygen(&mut system_rng()?, &attributes).map_err(CliError::abe("--attr"))?;
    let bytes = key.to_bytes();
    args.out.write(bytes.expose(), Secrecy::Secret, args.force)?;
    let result = json!({
        "machine_key": args.out.to_string(),
        "bytes": bytes.len(),
        "attributes": args.attributes.iter().map(|(label, value)| format!("{label}={value}")).collect::<Vec<_>>(),
    });
    report::print(format, &result, Some(&args.out))
}

fn run_encrypt(args: &EncryptArgs, format: Format) -> Result<(), CliError> {
    one_stdin([&args.public_key, &args.input])?;
    args.out.check_free(args.force)?;
    // The policy first: a refusal should not wait for a plaintext to be typed.
    let ciphertext_bytes = usize::try_from(args.max_bytes).unwrap_or(usize::MAX);
    let limits = Limits { ciphertext_bytes, ..Limits::default() };
    let policy = Policy::parse_with(&args.policy, &limits)
        .map_err(|error| CliError::Abe { subject: "--policy".to_owned(), error: error.into() })?;
    let public = PublicKey::from_bytes(&args.public_key.read()?).map_err(CliError::abe(args.public_key.to_string()))?;
    let plaintext = args.input.read()?;
    let ciphertext = public
        .encrypt_with(&mut system_rng()?, &policy, &plaintext, &limits)
        .map_err(CliError::abe(args.input.to_string()))?;
    args.out.write(ciphertext.as_bytes(), Secrecy::Public, args.force)?;
    let result = json!({
        "ciphertext": args.out.to_string(),
        "bytes": ciphertext.as_bytes().len(),
        "plaintext_bytes": plaintext.len(),
        "policy": policy.to_string(),
    });
    report::print(format, &result, Some(&args.out))
}

fn read_key_and_ciphertext(key: &Source, input: &Source) -> Result<(AttributeKey, Ciphertext), CliError> {
    one_stdin([key, input])?;
    let parsed = AttributeKey::from_bytes(&key.read()?).map_err(CliError::abe(key.to_string()))?;
    let ciphertext = Ciphertext::from_bytes(&input.read()?).map_err(CliError::abe(input.to_string()))?;
    Ok((parsed, ciphertext))
}

fn run_decrypt(args: &DecryptArgs, format: Format) -> Result<(), CliError> {
    args.out.check_free(args.force)?;
    let (key, ciphertext) = read_key_and_ciphertext(&args.key, &args.input)?;
    let checks = if args.strict { PointChecks::Every } else { PointChecks::Sums };
    let plaintext = key.decrypt_with(&ciphertext, checks).map_err(CliError::abe(args.input.to_string()))?;
    args.out.write(plaintext.expose(), Secrecy::Secret, args.force)?;
    let result = json!({
        "plaintext": args.out.to_string(),
        "bytes": plaintext.len(),
        "policy": ciphertext.policy().to_string(),
    });
    report::print(format, &result, Some(&args.out))
}

fn run_audit(args: &AuditArgs, format: Format) -> Result<(), CliError> {
    let (key, ciphertext) = read_key_and_ciphertext(&args.key, &args.input)?;
    let verdict = key.audit(&ciphertext).map_err(CliError::abe(args.input.to_string()))?;
    // A key that satisfies opens it, or the verdict is `cannot tell`: then it is certain.
    let opened = key.could_decrypt(&ciphertext) && verdict != Verdict::CannotTell;
    let result = json!({
        "verdict": verdict.name(),
        "opened": opened,
        "meaning": inspect::meaning(verdict, ciphertext.policy().conditions(), key.could_decrypt(&ciphertext)),
        "policy": ciphertext.policy().to_string(),
    });
    report::print(format, &result, None)
}
