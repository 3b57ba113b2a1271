//! Who may call what: one table of calls and callers. What is not in it is refused.

use cinnabar_daemon::Role;
use cinnabar_daemon::grpc::{Rule, rule};

const EDGES: &[Role] = &[Role::Edge];
const NOBODY: &[Role] = &[];

/// The table. Which user of this machine, and which machine for which key, is for the services to say.
pub const ACCESS: &[Rule] = &[
    rule("/cinnabar.edge.v1.Signer/Sign", EDGES, true),
    rule("/cinnabar.edge.v1.Signer/SignStream", EDGES, true),
    rule("/cinnabar.edge.v1.Peer/Probe", EDGES, false),
    rule("/cinnabar.edge.v1.Agent/Certificates", NOBODY, true),
    rule("/cinnabar.edge.v1.Agent/Secret", NOBODY, true),
    rule("/cinnabar.edge.v1.Agent/Explain", NOBODY, true),
    rule("/cinnabar.edge.v1.Agent/Status", NOBODY, true),
    rule("/cinnabar.edge.v1.Agent/SetDistance", NOBODY, true),
];

#[cfg(test)]
mod tests {
    use cinnabar_daemon::grpc;

    use super::*;

    fn allowed(path: &str, caller: Option<Role>) -> bool {
        grpc::allowed(ACCESS, path, caller)
    }

    #[test]
    fn peers_sign_and_probe_and_nothing_else_and_nobody_else_does() {
        for rule in ACCESS {
            let peers = rule.path.contains(".Signer/") || rule.path.contains(".Peer/");
            for role in Role::ALL {
                assert_eq!(allowed(rule.path, Some(role)), peers && role == Role::Edge, "{} {role}", rule.path);
            }
            assert_eq!(allowed(rule.path, None), !rule.path.contains(".Peer/"), "{}", rule.path);
        }
        for path in ["", "/", "/cinnabar.edge.v1.Signer/Decrypt", "/cinnabar.edge.v1.Signer/sign"] {
            assert!(!allowed(path, Some(Role::Edge)) && !allowed(path, None), "{path}");
        }
    }
}
