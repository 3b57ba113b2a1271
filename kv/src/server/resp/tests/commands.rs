//! Every command, in both versions of the protocol.

use std::sync::atomic::Ordering;

use super::{MapSource, encode, say, talk};
use crate::server::resp::commands::{ADVICE, COMMANDS, WRITES};

fn source() -> MapSource {
    MapSource::new([("a", "one"), ("b", "two"), ("cert/1", "x"), ("cert/2", ""), ("other", "y")])
}

/// What the commands answer in RESP2, and what in RESP3 after the answer to `HELLO 3`.
async fn both(lines: &str) -> (String, String) {
    let source = source();
    let hello = say(&source, "HELLO 3").await;
    let three = say(&source, &format!("HELLO 3\r\n{lines}")).await;
    (say(&source, lines).await, three.strip_prefix(&hello).unwrap().to_owned())
}

async fn same(lines: &str, expected: &str) {
    assert_eq!(both(lines).await, (expected.to_owned(), expected.to_owned()), "{lines}");
}

#[tokio::test]
async fn reads_answer_as_redis_does() {
    same("GET a", "$3\r\none\r\n").await;
    same("get cert/2", "$0\r\n\r\n").await;
    assert_eq!(both("GET none").await, ("$-1\r\n".into(), "_\r\n".into()));
    let mget = both("MGET a none b a").await;
    assert_eq!(mget.0, "*4\r\n$3\r\none\r\n$-1\r\n$3\r\ntwo\r\n$3\r\none\r\n");
    assert_eq!(mget.1, "*4\r\n$3\r\none\r\n_\r\n$3\r\ntwo\r\n$3\r\none\r\n");
    same("EXISTS a none a b", ":3\r\n").await;
    same("STRLEN a\r\nSTRLEN none", ":3\r\n:0\r\n").await;
    same("TYPE a\r\nTYPE none", "+string\r\n+none\r\n").await;
    same("TTL a\r\nTTL none\r\nPTTL a\r\nPTTL none", ":-1\r\n:-2\r\n:-1\r\n:-2\r\n").await;
    same("DBSIZE", ":5\r\n").await;
}

#[tokio::test]
async fn a_record_tells_when_it_was_written_and_when_it_was_read() {
    same("CINNABAR.GET b", "*3\r\n$3\r\ntwo\r\n:2\r\n:5\r\n").await;
    same("cinnabar.get b atleast 5", "*3\r\n$3\r\ntwo\r\n:2\r\n:5\r\n").await;
    assert_eq!(both("CINNABAR.GET none").await, ("*3\r\n$-1\r\n:0\r\n:5\r\n".into(), "*3\r\n_\r\n:0\r\n:5\r\n".into()));
    same(
        "CINNABAR.GET a ATLEAST x\r\nCINNABAR.GET a ATLEAST -1",
        &"-ERR value is not an integer or out of range\r\n".repeat(2),
    )
    .await;
    same("CINNABAR.GET a SOON 1\r\nCINNABAR.GET a ATLEAST", &"-ERR syntax error\r\n".repeat(2)).await;
}

#[tokio::test]
async fn an_index_that_does_not_come_is_behind() {
    assert_eq!(say(&source(), "CINNABAR.GET a ATLEAST 6").await, "-BEHIND applied 5 needed 6\r\n");
}

#[tokio::test]
async fn an_index_that_comes_in_time_is_waited_for() {
    let source = source();
    let writer = source.clone();
    let write = tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        writer.put("a", b"new");
    });
    assert_eq!(say(&source, "CINNABAR.GET a ATLEAST 6").await, "*3\r\n$3\r\nnew\r\n:6\r\n:6\r\n");
    write.await.unwrap();
}

#[tokio::test]
async fn scans_go_through_all_keys_and_only_matching_ones() {
    same("SCAN 0", "*2\r\n$1\r\n0\r\n*5\r\n$1\r\na\r\n$1\r\nb\r\n$6\r\ncert/1\r\n$6\r\ncert/2\r\n$5\r\nother\r\n")
        .await;
    same("SCAN 0 MATCH cert/* COUNT 99999", "*2\r\n$1\r\n0\r\n*2\r\n$6\r\ncert/1\r\n$6\r\ncert/2\r\n").await;
    same("SCAN 0 match *[12] type STRING", "*2\r\n$1\r\n0\r\n*2\r\n$6\r\ncert/1\r\n$6\r\ncert/2\r\n").await;
    same("SCAN 0 TYPE hash", "*2\r\n$1\r\n0\r\n*0\r\n").await;
    same("SCAN 0 COUNT 0\r\nSCAN 0 COUNT\r\nSCAN 0 LIMIT 1", &"-ERR syntax error\r\n".repeat(3)).await;
    same("SCAN 0 COUNT x", "-ERR value is not an integer or out of range\r\n").await;
    for cursor in ["x", "-1", "12345", "18446744073709551616"] {
        let answer = say(&source(), &format!("SCAN {cursor}")).await;
        assert!(answer.starts_with("-ERR invalid cursor"), "{answer}");
    }
    let long = talk(&source(), &encode(&[b"SCAN", b"0", b"MATCH", &[b'x'; 2000]])).await;
    assert_eq!(long, b"-ERR a pattern has at most 1024 bytes\r\n");
}

#[tokio::test]
async fn greetings_answer_what_libraries_ask() {
    same("PING\r\nPING hey\r\nECHO x", "+PONG\r\n$3\r\nhey\r\n$1\r\nx\r\n").await;
    same("SELECT 0\r\nSELECT 1", "+OK\r\n-ERR DB index is out of range\r\n").await;
    same("QUIT\r\nPING", "+OK\r\n").await;
    same("CLIENT ID\r\nCLIENT SETNAME me\r\nCLIENT GETNAME", ":7\r\n+OK\r\n$2\r\nme\r\n").await;
    assert_eq!(both("CLIENT GETNAME").await, ("$-1\r\n".into(), "_\r\n".into()));
    same("CLIENT SETINFO LIB-NAME redis-py\r\nCLIENT NO-EVICT on", "+OK\r\n+OK\r\n").await;
    same("AUTH default x", "+OK\r\n").await;
    let list = both("CLIENT SETNAME me\r\nCLIENT LIST").await;
    assert!(list.0.starts_with("+OK\r\n$") && list.0.contains("id=7 name=me db=0 resp=2"), "{}", list.0);
    assert!(list.1.starts_with("+OK\r\n=") && list.1.contains("txt:id=7 name=me db=0 resp=3"), "{}", list.1);
    for (line, error) in [
        ("AUTH x", "-ERR AUTH <password>"),
        ("AUTH root x", "-WRONGPASS"),
        ("AUTH a b c", "-ERR syntax"),
        ("HELLO 4", "-NOPROTO"),
        ("HELLO x", "-ERR Protocol version"),
        ("HELLO 3 AUTH root x", "-WRONGPASS"),
        ("HELLO 3 FOO", "-ERR Syntax error in HELLO option 'FOO'"),
        ("CLIENT KILL 1", "-ERR unknown subcommand 'KILL' of CLIENT"),
        ("CLIENT SETNAME", "-ERR wrong number of arguments for 'client'"),
        ("CLIENT SETINFO lib-age 3", "-ERR syntax"),
        ("PING a b", "-ERR wrong number of arguments for 'ping'"),
    ] {
        let answer = say(&source(), line).await;
        assert!(answer.starts_with(error), "{line}: {answer}");
    }
    let name = talk(&source(), &encode(&[b"CLIENT", b"SETNAME", b"a b\n"])).await;
    assert!(name.starts_with(b"-ERR Client names"));
}

#[tokio::test]
async fn hello_changes_the_version_and_nothing_when_it_fails() {
    let hello =
        say(&source(), "HELLO 3 AUTH default x SETNAME me\r\nCLIENT GETNAME\r\nGET none\r\nHELLO 2\r\nGET none").await;
    assert!(hello.starts_with("%7\r\n$6\r\nserver\r\n$8\r\ncinnabar\r\n"), "{hello}");
    assert!(hello.contains("$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:7\r\n"));
    assert!(hello.contains("$2\r\nme\r\n_\r\n*14\r\n") && hello.ends_with("$-1\r\n"));
    let failed = say(&source(), "HELLO 3 SETNAME me FOO\r\nCLIENT GETNAME").await;
    assert!(failed.ends_with("$-1\r\n"), "{failed}");
    let reset = say(&source(), "HELLO 3\r\nRESET\r\nGET none").await;
    assert!(reset.ends_with("+RESET\r\n$-1\r\n"));
}

#[tokio::test]
async fn the_command_table_describes_every_command() {
    let count = COMMANDS.len();
    same("COMMAND COUNT", &format!(":{count}\r\n")).await;
    assert_eq!(both("COMMAND DOCS get").await, ("*0\r\n".into(), "%0\r\n".into()));
    let one = both("COMMAND INFO get nothing").await;
    assert_eq!(one.0, "*2\r\n*6\r\n$3\r\nget\r\n:2\r\n*2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n$-1\r\n");
    assert_eq!(one.1, "*2\r\n*6\r\n$3\r\nget\r\n:2\r\n~2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n_\r\n");
    let all = both("COMMAND").await.0;
    assert!(all.starts_with(&format!("*{count}\r\n")) && COMMANDS.iter().all(|spec| all.contains(spec.name)));
    assert!(all.contains("$4\r\nmget\r\n:-2\r\n*2\r\n+readonly\r\n+fast\r\n:1\r\n:-1\r\n:1\r\n"));
}

#[tokio::test]
async fn info_has_sections_that_tools_can_read() {
    let (two, three) = both("INFO").await;
    assert!(two.starts_with('$') && three.starts_with('=') && three.contains("\r\ntxt:# Server\r\n"));
    for line in [
        "redis_version:7",
        "loading:0",
        "role:slave",
        "applied_index:5",
        "committed_index:8",
        "behind_ms:42",
        "stale:0",
        "records:5",
        "db0:keys=5,",
    ] {
        assert!(two.contains(&format!("\r\n{line}")), "{line} in {two}");
    }
    let some = both("INFO replication Keyspace").await.0;
    assert!(some.contains("# Replication") && some.contains("# Keyspace") && !some.contains("# Server"));
    assert_eq!(both("INFO nothing").await, ("$0\r\n\r\n".into(), "=4\r\ntxt:\r\n".into()));
}

#[tokio::test]
async fn nothing_is_written() {
    for name in WRITES {
        let answers = say(&source(), &format!("{name}\r\n{} a b", name.to_uppercase())).await;
        let refused = "-READONLY this replica is read-only; write through a voter (cinnabar kv put)\r\n";
        assert_eq!(answers, refused.repeat(2), "{name}");
    }
    for (name, advice) in ADVICE {
        assert_eq!(say(&source(), name).await, format!("-ERR {name} is not served here: {advice}\r\n"));
    }
}

#[tokio::test]
async fn unknown_commands_are_repeated_in_part_and_escaped() {
    let plain = say(&source(), "FOO a bc").await;
    assert_eq!(plain, "-ERR unknown command 'FOO', with args beginning with: 'a' 'bc' \r\n");
    let evil = talk(&source(), &encode(&[b"x\r\n+OK\r\n", b"\0\xff'", &[b'y'; 60_000]])).await;
    assert!(evil.len() < 1024 && evil.iter().filter(|byte| **byte == b'\n').count() == 1, "{}", evil.escape_ascii());
    assert!(
        evil.starts_with(b"-ERR unknown command 'x\\r\\n+OK\\r\\n', with args beginning with: '\\x00\\xff\\'' 'yyy")
    );
    let many = talk(&source(), &encode(&vec![&b""[..]; 1024])).await;
    assert!(many.len() < 1024);
}

#[tokio::test]
async fn wrong_arity_names_the_command() {
    for (line, name) in
        [("GET", "get"), ("get a b", "get"), ("MGET", "mget"), ("DBSIZE 1", "dbsize"), ("CINNABAR.GET", "cinnabar.get")]
    {
        assert_eq!(say(&source(), line).await, format!("-ERR wrong number of arguments for '{name}' command\r\n"));
    }
}

#[tokio::test]
async fn a_key_that_cannot_exist_is_an_error() {
    let error = "-ERR a key has 1 to 512 bytes, this one 513\r\n";
    let long = [b'k'; 513];
    for command in ["GET", "STRLEN", "TYPE", "TTL", "EXISTS", "CINNABAR.GET"] {
        assert_eq!(talk(&source(), &encode(&[command.as_bytes(), &long])).await, error.as_bytes(), "{command}");
    }
    assert_eq!(talk(&source(), &encode(&[b"MGET", b"a", &long])).await, error.as_bytes());
    assert_eq!(talk(&source(), &encode(&[b"GET", b""])).await, b"-ERR a key has 1 to 512 bytes, this one 0\r\n");
}

#[tokio::test]
async fn without_a_state_reads_wait_and_greetings_do_not() {
    let source = source();
    source.empty.store(true, Ordering::SeqCst);
    for line in ["GET a", "MGET a b", "EXISTS a", "STRLEN a", "TYPE a", "TTL a", "DBSIZE", "SCAN 0", "CINNABAR.GET a"] {
        let answer = say(&source, line).await;
        assert!(answer.starts_with("-LOADING ") && answer.matches("\r\n").count() == 1, "{line}: {answer}");
    }
    assert_eq!(say(&source, "PING").await, "+PONG\r\n");
    assert!(say(&source, "INFO persistence").await.contains("loading:1"));
}

#[tokio::test]
async fn damaged_bytes_are_an_error() {
    let source = source();
    source.damaged.store(true, Ordering::SeqCst);
    for line in ["GET a", "MGET a", "SCAN 0"] {
        assert_eq!(say(&source, line).await, "-ERR stored record is damaged: a digest is wrong\r\n");
    }
}
