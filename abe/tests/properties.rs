//! Properties: what holds for every policy, and for every string of bytes.

#[path = "../fuzz/bodies.rs"]
mod bodies;
mod common;

use cinnabar_abe::envelope::WrappedSecret;
use cinnabar_abe::limits::{self, Limits};
use cinnabar_abe::{
    AttributeKey, Attributes, Ciphertext, Error, Part, Policy, PolicyErrorKind, PublicKey, Span, SystemSecretKey, setup,
};
use common::Shake;
use proptest::prelude::*;

/// A policy as a tree, for writing the same policy in several ways.
#[derive(Debug, Clone)]
enum Tree {
    Is(String, String),
    Not(Box<Tree>),
    Gate(&'static str, Vec<Tree>),
}

impl Tree {
    fn text(&self) -> String {
        match self {
            Self::Is(label, value) => format!("{label}: {value}"),
            Self::Not(inner) => format!("not ({})", inner.text()),
            Self::Gate(operator, parts) => {
                let parts: Vec<_> = parts.iter().map(|part| format!("({})", part.text())).collect();
                parts.join(&format!(" {operator} "))
            }
        }
    }

    /// The same policy: parts turned round and repeated, double negation added, gates nested the other way.
    fn rewritten(&self) -> Self {
        match self {
            Self::Is(..) => Self::Not(Box::new(Self::Not(Box::new(self.clone())))),
            Self::Not(inner) => Self::Not(Box::new(inner.rewritten())),
            Self::Gate(operator, parts) => {
                let mut parts: Vec<_> = parts.iter().rev().map(Self::rewritten).collect();
                parts.push(parts[0].clone());
                let tail = parts.split_off(1);
                Self::Gate(operator, vec![parts.remove(0), Self::Gate(operator, tail)])
            }
        }
    }

    fn holds(&self, own: &[(String, String)]) -> Option<bool> {
        match self {
            Self::Is(label, value) => own.iter().find(|(l, _)| l == label).map(|(_, v)| v == value),
            _ => None,
        }
    }

    /// Satisfaction with negation pushed to the conditions, where a missing label satisfies neither sign.
    fn satisfied(&self, own: &[(String, String)], positive: bool) -> bool {
        match self {
            Self::Is(..) => self.holds(own).is_some_and(|holds| holds == positive),
            Self::Not(inner) => inner.satisfied(own, !positive),
            Self::Gate(operator, parts) => {
                let mut parts = parts.iter().map(|part| part.satisfied(own, positive));
                if (*operator == "and") == positive { parts.all(|part| part) } else { parts.any(|part| part) }
            }
        }
    }
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = ("[a-d]", "[0-2]").prop_map(|(label, value)| Tree::Is(label, value));
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|tree| Tree::Not(Box::new(tree))),
            (prop_oneof![Just("and"), Just("or")], prop::collection::vec(inner, 2..4))
                .prop_map(|(operator, parts)| Tree::Gate(operator, parts)),
        ]
    })
}

fn wide() -> Limits {
    Limits { policy_text_bytes: 1 << 20, policy_depth: 1 << 10, policy_wires: 1_000, ciphertext_bytes: 1 << 24 }
}

proptest! {
    #[test]
    fn what_is_printed_parses_to_the_same_policy(tree in tree()) {
        let policy = Policy::parse_with(&tree.text(), &wide()).unwrap();
        prop_assert_eq!(&Policy::parse_with(&policy.to_string(), &wide()).unwrap(), &policy);
    }

    #[test]
    fn an_id_survives_rewriting_and_tells_policies_apart(tree in tree(), other in tree()) {
        let policy = Policy::parse_with(&tree.text(), &wide()).unwrap();
        let rewritten = Policy::parse_with(&tree.rewritten().text(), &wide()).unwrap();
        prop_assert_eq!(policy.id(b"c"), rewritten.id(b"c"), "{} | {}", policy, rewritten);
        prop_assert_ne!(policy.id(b"c"), policy.id(b"d"));
        // Policies with equal ids must hold for the same attributes.
        let other = Policy::parse_with(&other.text(), &wide()).unwrap();
        if policy.id(b"c") == other.id(b"c") {
            for n in 0..256u32 {
                let pairs = ["a", "b", "c", "d"].iter().enumerate().filter_map(|(i, label)| {
                    let digit = n / 4u32.pow(i as u32) % 4;
                    (digit < 3).then(|| (*label, digit.to_string()))
                });
                let attributes = Attributes::new(pairs).unwrap();
                prop_assert_eq!(policy.is_satisfied_by(&attributes), other.is_satisfied_by(&attributes));
            }
        }
    }

    #[test]
    fn satisfaction_is_that_of_the_formula(tree in tree(), own in prop::collection::btree_map("[a-d]", "[0-2]", 0..5)) {
        let policy = Policy::parse_with(&tree.text(), &wide()).unwrap();
        let own: Vec<(String, String)> = own.into_iter().collect();
        let attributes = Attributes::new(own.iter().map(|(l, v)| (l, v))).unwrap();
        prop_assert_eq!(policy.is_satisfied_by(&attributes), tree.satisfied(&own, true), "{}", policy);
    }

    #[test]
    fn no_text_panics_and_every_error_points_into_it(text in ".{0,120}") {
        if let Err(error) = Policy::parse(&text) {
            prop_assert!(error.span().start <= error.span().end && error.span().end <= text.len());
            prop_assert!(error.to_string().starts_with("error["));
        }
    }

    #[test]
    fn no_text_of_tokens_panics(tokens in prop::collection::vec(
        prop_oneof![Just("("), Just(")"), Just(":"), Just("and"), Just("or"), Just("not"), Just("AND"), Just("a"), Just(" "), Just("\n")], 0..40,
    )) {
        let text = tokens.join(" ");
        match Policy::parse(&text) {
            Ok(policy) => prop_assert_eq!(&Policy::parse(&policy.to_string()).unwrap(), &policy),
            Err(error) => prop_assert!(error.span().end <= text.len()),
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = Ciphertext::from_bytes(&bytes);
        let _ = PublicKey::from_bytes(&bytes);
        let _ = SystemSecretKey::from_bytes(&bytes);
        let _ = AttributeKey::from_bytes(&bytes);
        let _ = WrappedSecret::from_bytes(&bytes);
    }
}

// === Bounds ===

fn chain(operator: &str, conditions: usize, condition: impl Fn(usize) -> String) -> String {
    (0..conditions).map(condition).collect::<Vec<_>>().join(operator)
}

fn kind(text: &str) -> PolicyErrorKind {
    Policy::parse(text).expect_err(text).kind()
}

#[test]
fn each_bound_holds_at_the_limit_and_one_beyond() {
    let open = limits::POLICY_DEPTH_MAX - 1;
    let nested = |n: usize| format!("{}a: b{}", "(".repeat(n), ")".repeat(n));
    assert!(Policy::parse(&nested(open)).is_ok());
    assert_eq!(kind(&nested(open + 1)), PolicyErrorKind::Depth);

    let most = limits::POLICY_WIRES_MAX;
    let or = |n| chain(" or ", n, |i| format!("l{i}: v"));
    assert!(Policy::parse(&or(most)).is_ok());
    assert_eq!(kind(&or(most + 1)), PolicyErrorKind::TooManyConditions);

    let padded = |bytes: usize| format!("{:bytes$}", "a: b");
    assert!(Policy::parse(&padded(limits::POLICY_TEXT_BYTES_MAX)).is_ok());
    assert_eq!(kind(&padded(limits::POLICY_TEXT_BYTES_MAX + 1)), PolicyErrorKind::TooLong);
    // A limit is the caller's: beyond the default, up to the format.
    assert!(Policy::parse_with(&nested(5_000), &Limits::FORMAT).is_ok());
    assert!(Policy::parse_with(&or(1_000), &Limits::FORMAT).is_ok());
    let beyond = Policy::parse_with(&or(limits::FORMAT_WIRES_MAX + 1), &Limits::FORMAT).unwrap_err();
    assert_eq!(beyond.kind(), PolicyErrorKind::TooManyConditions);
}

#[test]
fn a_policy_that_makes_too_large_a_ciphertext_is_refused_before_any_work() {
    let repeated = chain(" or ", 60, |i| format!("country: c{i}"));
    let error = Policy::parse(&repeated).unwrap_err();
    assert_eq!(error.kind().code(), "too-large");
    assert!(error.hint().contains("label `country` stands in 60 conditions"), "{error}");
    let negated = chain(" and ", 100, |i| format!("not l{i}: v"));
    let error = Policy::parse(&negated).unwrap_err();
    assert!(error.hint().contains("100 negated conditions cost 29200 bytes"), "{error}");
    assert!(Policy::parse_with(&negated, &Limits { ciphertext_bytes: 1 << 20, ..Limits::default() }).is_ok());

    let mut rng = Shake::new("sizes");
    let (public, _) = setup(&mut rng).unwrap();
    let policy = Policy::parse("a: b").unwrap();
    let room = limits::CIPHERTEXT_BYTES_MAX - policy.ciphertext_bytes(0).unwrap();
    let largest = public.encrypt(&mut rng, &policy, &vec![0; room]).unwrap();
    assert_eq!(largest.as_bytes().len(), limits::CIPHERTEXT_BYTES_MAX);
    let refused = public.encrypt(&mut rng, &policy, &vec![0; room + 1]);
    assert!(matches!(refused, Err(Error::Policy(error)) if error.kind() == PolicyErrorKind::TooLarge));
}

#[test]
fn too_many_attributes_are_an_error_not_a_shorter_list() {
    let mut rng = Shake::new("attributes");
    let (_, secret) = setup(&mut rng).unwrap();
    let many = Attributes::new((0..2_000).map(|i| (format!("l{i}"), "v"))).unwrap();
    assert!(matches!(secret.keygen(&mut rng, &many), Err(Error::TooLong { what: "attribute list", .. })));
}

// === Errors with a caret ===

#[test]
fn policy_errors_show_the_place_and_the_fix() {
    for (text, expected) in [
        (
            "(region: EU) (not country: FR)",
            "error[left-over]: this part would be ignored, so the policy is refused\n  \
             (region: EU) (not country: FR)\n               \
             ^ join the two parts with `and` or `or`",
        ),
        (
            "country: US AND region: EU",
            "error[keyword-case]: operators are written in lower case\n  \
             country: US AND region: EU\n              \
             ^^^ write `and`",
        ),
        (
            "country: US Not region: EU",
            "error[keyword-case]: operators are written in lower case\n  \
             country: US Not region: EU\n              \
             ^^^ write `and not` or `or not`, in lower case",
        ),
        (
            "region:",
            "error[expected-value]: a value was expected after the colon\n  region:\n         ^ write the value, such as `EU`",
        ),
        (
            "a: b \u{200b}",
            "error[bad-character]: this character is not part of the policy language\n  \
             a: b \u{fffd}\n       \
             ^ U+200B: labels and values are letters, digits and `_`",
        ),
        (
            "a: b and\nc: \u{fc}",
            "error[bad-character]: this character is not part of the policy language\n  \
             c: \u{fc}\n     \
             ^ labels and values are letters, digits and `_`",
        ),
    ] {
        assert_eq!(Policy::parse(text).unwrap_err().to_string(), expected, "{text}");
    }
    for (text, code) in [
        ("", "empty"),
        ("NOT a: b", "keyword-case"),
        ("a: b and NOT c: d", "keyword-case"),
        ("a: b or AND c: d", "expected-condition"),
        ("a b", "expected-colon"),
        ("a: and", "reserved-word"),
        ("or: b", "reserved-word"),
        ("not: a", "expected-condition"),
        ("a: b or", "expected-condition"),
        ("()", "expected-condition"),
        ("(a: b", "expected-close"),
        ("a: b)", "left-over"),
        ("a: b: c", "left-over"),
        ("a: b not c: d", "left-over"),
        ("a: b c: d", "left-over"),
    ] {
        assert_eq!(kind(text).code(), code, "{text}");
    }
}

// === What fuzzing found, and what it starts from ===

#[test]
fn every_regression_input_holds() {
    type Body = fn(&[u8]);
    let bodies: [(&str, Body); 7] = [
        ("policy", bodies::policy),
        ("public_key", bodies::public_key),
        ("system_secret_key", bodies::system_secret_key),
        ("attribute_key", bodies::attribute_key),
        ("ciphertext", bodies::ciphertext),
        ("wrapped_key", bodies::wrapped_key),
        ("sealed_file", bodies::sealed_file),
    ];
    for (target, body) in bodies {
        let folder = format!("{}/fuzz/regressions/{target}", env!("CARGO_MANIFEST_DIR"));
        let mut inputs = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            body(&std::fs::read(path).unwrap());
            inputs += 1;
        }
        assert!(inputs > 0, "{folder} is empty");
    }
}

// === Parts of a policy ===

#[test]
fn every_condition_and_operator_of_a_text_is_found_and_answered() {
    let text = "region: EU and not (country: FR or tier: low)";
    let (policy, places) = Policy::parse_with_places(text, &Limits::default()).unwrap();
    let shown = |span: Span| &text[span.start..span.end];
    let conditions: Vec<_> = places.conditions.iter().map(|place| (shown(place.label), shown(place.value))).collect();
    assert_eq!(conditions, [("region", "EU"), ("country", "FR"), ("tier", "low")]);
    assert_eq!(places.operators.iter().map(|span| shown(*span)).collect::<Vec<_>>(), ["or", "and"]);
    // `not (a or b)` needs both of `not a` and `not b`.
    assert_eq!(policy.sides(0), Some((true, [Part::Condition(1), Part::Condition(2)])));
    assert_eq!(policy.sides(1), Some((true, [Part::Condition(0), Part::Operator(0)])));
    assert_eq!(policy.sides(2), None);
    let truth = |country, tier| {
        policy.truth(&Attributes::new([("region", "EU"), ("country", country), ("tier", tier)]).unwrap())
    };
    assert_eq!(truth("DE", "high").conditions, [true, true, true]);
    assert_eq!((truth("DE", "high").operators, truth("DE", "high").whole), (vec![true, true], true));
    assert_eq!((truth("FR", "high").operators, truth("FR", "high").whole), (vec![false, false], false));
    let one = Policy::parse("region: EU").unwrap().truth(&Attributes::new([("country", "FR")]).unwrap());
    assert_eq!((one.conditions, one.operators.len(), one.whole), (vec![false], 0, false));
}

#[test]
fn a_policy_with_other_conditions_keeps_its_shape() {
    let policy = Policy::parse("region: EU and not (country: FR or region: US)").unwrap();
    let mapped =
        policy.try_map_conditions(|_, label, value| Ok::<_, Error>((format!("{label}_{value}"), "1".to_owned())));
    assert_eq!(mapped.unwrap(), Policy::parse("region_EU: 1 and not (country_FR: 1 or region_US: 1)").unwrap());
    for word in ["", "a b", "not", "x-y"] {
        let refused = policy.try_map_conditions(|_, label, _| Ok::<_, Error>((label.to_owned(), word.to_owned())));
        assert!(matches!(refused, Err(Error::Attribute { .. })), "{word}");
    }
}
