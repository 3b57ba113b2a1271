//! Real clients: redis-cli, and redis-py under Debian's python3. A machine without them says SKIPPED.

use std::process::{Command, Output, Stdio};

use super::MapSource;
use super::socket::Served;

const PYTHON: &str = "/usr/bin/python3";

fn runs(command: &str, args: &[&str]) -> bool {
    let status = Command::new(command).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn source() -> MapSource {
    let keys: Vec<String> = (0..300).map(|n| format!("key/{n:03}")).collect();
    let source = MapSource::new(keys.iter().map(|key| (&key[..], "value")));
    source.put("a", b"one");
    source
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn redis_cli(served: &Served, args: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    command.arg("-s").arg(served.path()).args(args);
    let output = run(command).await;
    assert!(output.stderr.is_empty(), "{args:?}: {}", output.stderr.escape_ascii());
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_cli_reads() {
    if !runs("redis-cli", &["--version"]) {
        println!("SKIPPED: redis-cli is not installed");
        return;
    }
    let served = Served::new(source());
    assert_eq!(redis_cli(&served, &["GET", "a"]).await, "one\n");
    assert_eq!(redis_cli(&served, &["MGET", "a", "none", "key/001"]).await, "one\n\nvalue\n");
    assert_eq!(redis_cli(&served, &["-3", "--json", "MGET", "a", "none"]).await.trim(), r#"["one",null]"#);
    assert_eq!(redis_cli(&served, &["--scan"]).await.lines().count(), 301);
    assert_eq!(redis_cli(&served, &["--scan", "--pattern", "key/1*"]).await.lines().count(), 100);
    assert!(redis_cli(&served, &["INFO"]).await.contains("applied_index:301"));
    assert!(redis_cli(&served, &["HELLO", "3"]).await.contains("cinnabar"));
    assert!(redis_cli(&served, &["CINNABAR.GET", "a"]).await.starts_with("one\n301\n301\n"));
    let refused = redis_cli(&served, &["SET", "a", "b"]).await;
    assert!(refused.starts_with("READONLY this replica is read-only"), "{refused}");
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_cli_pipes() {
    if !runs("redis-cli", &["--version"]) {
        println!("SKIPPED: redis-cli is not installed");
        return;
    }
    let served = Served::new(source());
    let file = served.path().with_file_name("commands");
    std::fs::write(&file, "*2\r\n$3\r\nGET\r\n$1\r\na\r\n".repeat(50_000)).unwrap();
    let mut command = Command::new("redis-cli");
    command.arg("-s").arg(served.path()).arg("--pipe").stdin(std::fs::File::open(file).unwrap());
    let output = String::from_utf8(run(command).await.stdout).unwrap();
    assert!(output.contains("errors: 0, replies: 50000"), "{output}");
    served.end().await;
}

const SCRIPT: &str = r#"
import redis, sys
r = redis.Redis(unix_socket_path=sys.argv[1], client_name="test")
assert r.ping() and r.client_getname() in ("test", b"test")
assert r.get("a") == b"one" and r.get("none") is None
assert r.mget("a", "none", "key/001") == [b"one", None, b"value"]
assert r.exists("a", "none") == 1 and r.strlen("a") == 3
assert r.type("a") == b"string" and r.ttl("a") == -1 and r.pttl("none") == -2
assert r.dbsize() == 301
assert len(list(r.scan_iter())) == 301
assert len(set(r.scan_iter("key/2*", count=9))) == 100
info = r.info()
assert info["applied_index"] == 301 and info["db0"]["keys"] == 301 and info["loading"] == 0, info
assert r.info("replication")["role"] == "slave"
assert r.command()["get"]["arity"] == 2 and r.command_count() > 10
assert r.execute_command("CINNABAR.GET", "a", "ATLEAST", 301) == [b"one", 301, 301]
p = r.pipeline(transaction=False)
for n in range(20000):
    p.get("a")
assert p.execute() == [b"one"] * 20000
for write in (lambda: r.set("a", "b"), lambda: r.delete("a"), lambda: r.hset("h", "f", "v")):
    try:
        write()
        raise SystemExit("a write was taken")
    except redis.exceptions.ReadOnlyError:
        pass
try:
    r.execute_command("NOSUCH", "x\r\ny")
    raise SystemExit("an unknown command was taken")
except redis.exceptions.ResponseError as error:
    assert "unknown command" in str(error)
print("done")
"#;

#[tokio::test(flavor = "multi_thread")]
async fn redis_py_reads() {
    if !runs(PYTHON, &["-c", "import redis"]) {
        println!("SKIPPED: {PYTHON} has no redis module");
        return;
    }
    let served = Served::new(source());
    let mut command = Command::new(PYTHON);
    command.args(["-c", SCRIPT]).arg(served.path());
    let output = run(command).await;
    assert_eq!(output.stdout.trim_ascii(), b"done", "{}", String::from_utf8_lossy(&output.stderr));
    served.end().await;
}
