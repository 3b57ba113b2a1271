//! What clients say before they ask for anything: `HELLO`, `AUTH`, `CLIENT`, `RESET`.
//!
//! Law: these answer what client libraries need to begin, and change nothing but the connection. There are no users and
//! no passwords: whoever may open the socket may read.

use super::commands;
use super::failure::{Failure, Quoted};
use super::limits::NAME_BYTES_MAX;
use super::parser::Args;
use super::reply::{Reply, Version};
use super::session::{Session, number};
use super::{REDIS_VERSION, Source};

/// The only user; any password is right, as for Redis's default user.
const USER: &[u8] = b"default";

fn check_name(name: &[u8]) -> Result<&[u8], Failure> {
    let visible = name.iter().all(u8::is_ascii_graphic);
    if visible && name.len() <= NAME_BYTES_MAX { Ok(name) } else { Err(Failure::Name) }
}

fn check_user(user: &[u8]) -> Result<(), Failure> {
    if user == USER { Ok(()) } else { Err(Failure::User) }
}

impl<S: Source> Session<S> {
    pub(super) fn hello(&mut self, args: Args<'_>, reply: &mut Reply) -> Result<(), Failure> {
        let version = match args.get(1) {
            None => reply.version,
            Some(version) => match number(version).map_err(|_| Failure::VersionNumber)? {
                2 => Version::Resp2,
                3 => Version::Resp3,
                _ => return Err(Failure::Version),
            },
        };
        let mut name = None;
        let mut options = args.rest(2);
        while let Some(option) = options.next() {
            let wrong = || Failure::HelloOption(Quoted::new(option));
            if option.eq_ignore_ascii_case(b"auth") {
                let user = options.next().ok_or_else(wrong)?;
                options.next().ok_or_else(wrong)?;
                check_user(user)?;
            } else if option.eq_ignore_ascii_case(b"setname") {
                name = Some(check_name(options.next().ok_or_else(wrong)?)?);
            } else {
                return Err(wrong());
            }
        }
        reply.version = version;
        if let Some(name) = name {
            self.name = name.to_vec();
        }
        reply.map(7);
        for (what, is) in [("server", "cinnabar"), ("version", REDIS_VERSION)] {
            reply.bulk(what.as_bytes());
            reply.bulk(is.as_bytes());
        }
        reply.bulk(b"proto");
        reply.integer(if version == Version::Resp3 { 3 } else { 2 });
        reply.bulk(b"id");
        reply.integer(self.id);
        for (what, is) in [("mode", "standalone"), ("role", "replica")] {
            reply.bulk(what.as_bytes());
            reply.bulk(is.as_bytes());
        }
        reply.bulk(b"modules");
        reply.array(0);
        Ok(())
    }

    pub(super) fn auth(&self, args: Args<'_>, reply: &mut Reply) -> Result<(), Failure> {
        match (args.len(), args.get(1)) {
            (3, Some(user)) => check_user(user)?,
            (2, _) => return Err(Failure::Password),
            _ => return Err(Failure::Syntax),
        }
        reply.simple("OK");
        Ok(())
    }

    pub(super) fn client(&mut self, args: Args<'_>, reply: &mut Reply) -> Result<(), Failure> {
        let word = args.get(1).unwrap_or_default();
        let is = |known: &str| word.eq_ignore_ascii_case(known.as_bytes());
        match args.len() {
            2 if is("id") => reply.integer(self.id),
            2 if is("getname") => reply.bulk_or_nil(Some(&self.name[..]).filter(|name| !name.is_empty())),
            2 if is("info") => self.describe(reply),
            // Only itself: clients are not told of each other.
            _ if is("list") => self.describe(reply),
            3 if is("setname") => {
                self.name = check_name(args.get(2).unwrap_or_default())?.to_vec();
                reply.simple("OK");
            }
            4 if is("setinfo") => {
                let (what, text) = (args.get(2).unwrap_or_default(), args.get(3).unwrap_or_default());
                let names = ["lib-name", "lib-ver"];
                let place = names.iter().position(|name| what.eq_ignore_ascii_case(name.as_bytes()));
                self.library[place.ok_or(Failure::Syntax)?] = check_name(text)?.to_vec();
                reply.simple("OK");
            }
            // Nothing is ever evicted or touched for a client's sake.
            3 if is("no-evict") || is("no-touch") => reply.simple("OK"),
            _ if ["id", "getname", "info", "setname", "setinfo", "no-evict", "no-touch"].into_iter().any(is) => {
                return Err(Failure::Arity("client"));
            }
            _ => return Err(Failure::Subcommand("CLIENT", Quoted::new(word))),
        }
        Ok(())
    }

    fn describe(&self, reply: &mut Reply) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let [library, version] = &self.library;
        reply.verbatim(&format!(
            "id={} name={} db=0 resp={} user=default lib-name={} lib-ver={}\n",
            self.id,
            text(&self.name),
            if reply.version == Version::Resp3 { 3 } else { 2 },
            text(library),
            text(version),
        ));
    }

    pub(super) fn reset(&mut self, reply: &mut Reply) {
        self.name.clear();
        reply.version = Version::Resp2;
        reply.simple("RESET");
    }

    pub(super) fn command(&self, args: Args<'_>, reply: &mut Reply) -> Result<(), Failure> {
        let word = args.get(1).unwrap_or_default();
        let is = |known: &str| word.eq_ignore_ascii_case(known.as_bytes());
        if args.len() == 1 || args.len() == 2 && is("info") {
            reply.array(commands::COMMANDS.len());
            commands::COMMANDS.iter().for_each(|spec| describe_command(spec, reply));
        } else if is("info") {
            let names = args.rest(2);
            reply.array(names.len());
            for name in names {
                match commands::find(name) {
                    Some(spec) => describe_command(spec, reply),
                    None => reply.nil(),
                }
            }
        } else if is("count") && args.len() == 2 {
            reply.integer(commands::COMMANDS.len() as u64);
        } else if is("docs") {
            reply.map(0);
        } else if is("list") && args.len() == 2 {
            reply.array(commands::COMMANDS.len());
            commands::COMMANDS.iter().for_each(|spec| reply.bulk(spec.name.as_bytes()));
        } else {
            return Err(Failure::Subcommand("COMMAND", Quoted::new(word)));
        }
        Ok(())
    }
}

/// Name, arity, flags, first key, last key, step between keys.
fn describe_command(spec: &commands::Spec, reply: &mut Reply) {
    let signed = |number: i64, reply: &mut Reply| match number {
        0.. => reply.integer(number.unsigned_abs()),
        _ => reply.negative(number.unsigned_abs()),
    };
    reply.array(6);
    reply.bulk(spec.name.as_bytes());
    signed(spec.arity, reply);
    reply.set(spec.flags.len());
    spec.flags.iter().for_each(|flag| reply.simple(flag));
    let (first, last) = spec.keys;
    reply.integer(first);
    signed(last, reply);
    reply.integer(u64::from(first > 0));
}
