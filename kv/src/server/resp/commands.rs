//! The commands that are served, those that are refused because they write, and those with advice instead.
//!
//! Source: the command table of Redis 7; arity counts the name, and a negative one is a least number.

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Get,
    Mget,
    Exists,
    Strlen,
    Type,
    Ttl,
    Dbsize,
    Scan,
    CinnabarGet,
    Ping,
    Echo,
    Select,
    Hello,
    Auth,
    Client,
    Command,
    Info,
    Reset,
    Quit,
}

/// One command as `COMMAND` describes it.
#[derive(Debug)]
pub struct Spec {
    /// Its name, in small letters.
    pub name: &'static str,
    /// What it does.
    pub kind: Kind,
    /// Its arguments with its name; negative: at least so many.
    pub arity: i64,
    /// Redis's flags.
    pub flags: &'static [&'static str],
    /// Positions of its first and last key, the latter counted from the end when negative; 0 when it has none.
    pub keys: (u64, i64),
}

const READ: &[&str] = &["readonly", "fast"];
const SLOW_READ: &[&str] = &["readonly"];
const TALK: &[&str] = &["loading", "stale", "fast"];

const fn spec(name: &'static str, kind: Kind, arity: i64, flags: &'static [&'static str], keys: (u64, i64)) -> Spec {
    Spec { name, kind, arity, flags, keys }
}

/// Every command that is served, the most frequent first.
pub const COMMANDS: &[Spec] = &[
    spec("get", Kind::Get, 2, READ, (1, 1)),
    spec("mget", Kind::Mget, -2, READ, (1, -1)),
    spec("cinnabar.get", Kind::CinnabarGet, -2, READ, (1, 1)),
    spec("exists", Kind::Exists, -2, READ, (1, -1)),
    spec("strlen", Kind::Strlen, 2, READ, (1, 1)),
    spec("type", Kind::Type, 2, READ, (1, 1)),
    spec("ttl", Kind::Ttl, 2, READ, (1, 1)),
    spec("pttl", Kind::Ttl, 2, READ, (1, 1)),
    spec("scan", Kind::Scan, -2, SLOW_READ, (0, 0)),
    spec("dbsize", Kind::Dbsize, 1, READ, (0, 0)),
    spec("ping", Kind::Ping, -1, TALK, (0, 0)),
    spec("echo", Kind::Echo, 2, TALK, (0, 0)),
    spec("select", Kind::Select, 2, TALK, (0, 0)),
    spec("hello", Kind::Hello, -1, TALK, (0, 0)),
    spec("auth", Kind::Auth, -2, TALK, (0, 0)),
    spec("client", Kind::Client, -2, TALK, (0, 0)),
    spec("command", Kind::Command, -1, TALK, (0, 0)),
    spec("info", Kind::Info, -1, TALK, (0, 0)),
    spec("reset", Kind::Reset, 1, TALK, (0, 0)),
    spec("quit", Kind::Quit, -1, TALK, (0, 0)),
];

/// Commands of Redis that change something.
#[rustfmt::skip]
pub const WRITES: &[&str] = &[
    "append", "bitfield", "bitop", "blmove", "blmpop", "blpop", "brpop", "brpoplpush", "bzmpop", "bzpopmax",
    "bzpopmin", "copy", "decr", "decrby", "del", "expire", "expireat", "flushall", "flushdb", "function", "geoadd",
    "geosearchstore", "getdel", "getex", "getset", "hdel", "hexpire", "hexpireat", "hincrby", "hincrbyfloat",
    "hmset", "hpersist", "hpexpire", "hpexpireat", "hset", "hsetnx", "incr", "incrby", "incrbyfloat", "linsert",
    "lmove", "lmpop", "lpop", "lpush", "lpushx", "lrem", "lset", "ltrim", "migrate", "move", "mset", "msetnx",
    "persist", "pexpire", "pexpireat", "pfadd", "pfmerge", "psetex", "publish", "rename", "renamenx", "restore",
    "rpop", "rpoplpush", "rpush", "rpushx", "sadd", "sdiffstore", "set", "setbit", "setex", "setnx", "setrange",
    "sinterstore", "smove", "spop", "spublish", "srem", "sunionstore", "swapdb", "unlink", "xack", "xadd",
    "xautoclaim", "xclaim", "xdel", "xgroup", "xreadgroup", "xsetid", "xtrim", "zadd", "zdiffstore", "zincrby",
    "zinterstore", "zmpop", "zpopmax", "zpopmin", "zrangestore", "zrem", "zremrangebylex", "zremrangebyrank",
    "zremrangebyscore", "zunionstore",
];

/// Commands that clients send although they need not, and what to do instead.
pub const ADVICE: &[(&str, &str)] = &[
    ("keys", "use SCAN with MATCH"),
    ("multi", "there is nothing to write; use a pipeline without a transaction"),
    ("exec", "there is nothing to write; use a pipeline without a transaction"),
    ("watch", "use CINNABAR.GET, which tells the index of the last write"),
    ("subscribe", "use the Watch call of the gRPC service"),
    ("psubscribe", "use the Watch call of the gRPC service"),
    ("monitor", "clients do not see each other's commands here"),
    ("eval", "there are no scripts here"),
    ("evalsha", "there are no scripts here"),
];

fn is(name: &[u8], known: &str) -> bool {
    name.eq_ignore_ascii_case(known.as_bytes())
}

/// Finds a command that is served, in any mixture of small letters and capitals.
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    COMMANDS.iter().find(|spec| is(name, spec.name))
}

/// Does a command of this name write, in Redis?
pub fn writes(name: &[u8]) -> bool {
    WRITES.iter().any(|known| is(name, known))
}

/// What to do instead of a command.
pub fn advice(name: &[u8]) -> Option<(&'static str, &'static str)> {
    ADVICE.iter().find(|(known, _)| is(name, known)).copied()
}

impl Spec {
    /// Is that a possible number of arguments, the name counted?
    pub fn takes(&self, count: usize) -> bool {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        if self.arity < 0 { count >= -self.arity } else { count == self.arity }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_has_two_meanings() {
        let mut names: Vec<&str> = COMMANDS.iter().map(|spec| spec.name).collect();
        names.extend(WRITES);
        names.extend(ADVICE.iter().map(|(name, _)| name));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(names.iter().all(|name| !name.bytes().any(|byte| byte.is_ascii_uppercase())));
    }

    #[test]
    fn names_are_found_in_any_case() {
        assert_eq!(find(b"GeT").map(|spec| spec.kind), Some(Kind::Get));
        assert!(find(b"gett").is_none() && find(b"").is_none() && find(b"set").is_none());
        assert!(writes(b"FlushAll") && !writes(b"GET"));
    }

    #[test]
    fn arity_is_exact_or_least() {
        let (get, mget) = (find(b"get").unwrap(), find(b"mget").unwrap());
        assert!(get.takes(2) && !get.takes(1) && !get.takes(3));
        assert!(mget.takes(2) && mget.takes(1000) && !mget.takes(1));
    }
}
