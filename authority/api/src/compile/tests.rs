//! Policy texts: what they become, what is refused and where, and that the preview is what machines can do.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::schema::Facts;

fn cluster() -> ClusterId {
    "acme-prod".parse().unwrap()
}

fn schema() -> Schema {
    Schema::from_toml("[labels.standard]\nmembers = [\"pci\", \"iso_27001\"]\n").unwrap()
}

fn centers() -> BTreeSet<DataCenterId> {
    ["fra", "ams", "cdg", "iad", "nrt"].iter().map(|name| name.parse().unwrap()).collect()
}

fn compiled(text: &str) -> Result<Compiled, PolicyProblem> {
    let (schema, data_centers) = (schema(), centers());
    compile(text, &cluster(), &Vocabulary { schema: &schema, data_centers: &data_centers, held: &|_| true })
}

fn machine(dc: &str, country: &str, regions: &[&str]) -> Attributes {
    let sets = BTreeMap::from([(REGION.to_owned(), regions.iter().map(|region| (*region).to_owned()).collect())]);
    let (country, data_center) = (country.to_owned(), dc.parse().unwrap());
    let facts = Facts { country, data_center, values: BTreeMap::new(), sets };
    Attributes::new(schema().attributes(&cluster(), &facts).unwrap()).unwrap()
}

fn machines() -> Vec<Attributes> {
    vec![
        machine("fra", "DE", &["WEUR"]),
        machine("ams", "NL", &["WEUR"]),
        machine("cdg", "FR", &["WEUR"]),
        machine("iad", "US", &["ENAM"]),
        machine("nrt", "JP", &["APAC"]),
    ]
}

#[test]
fn sets_become_labels_and_the_rest_stays() {
    for (text, expected) in [
        ("region: EU", "region_EU: 1"),
        ("not region: EU", "not region_EU: 1"),
        ("region: EU and (not country: FR)", "region_EU: 1 and not country: FR"),
        ("standard: iso_27001 or dc: fra", "standard_iso_27001: 1 or dc: fra"),
        ("Region: eu and country: de", "region_EU: 1 and country: DE"),
        ("tier: highest", "tier: highest"),
    ] {
        assert_eq!(compiled(text).unwrap().policy, Policy::parse(expected).unwrap(), "{text}");
    }
    let everywhere = compiled("  ").unwrap();
    assert_eq!(everywhere.policy, Policy::parse("cluster: acme_prod").unwrap());
    assert_eq!((everywhere.canonical.as_str(), everywhere.unsatisfied(&machines())), (EVERYWHERE, None));
}

#[test]
fn the_canonical_text_is_one_for_all_that_mean_the_same_and_means_that() {
    for (texts, expected) in [
        (
            &[
                "region: EU and (not country: FR)",
                "(not country: FR) and region: eu",
                "not not (region: EU and not country: fr)",
            ][..],
            "region: EU and not country: FR",
        ),
        (&["country: DE or country: DE", "(country: DE)"], "country: DE"),
        (
            &["country: DE or (country: NL or country: FR)", "(country: FR or country: DE) or country: NL"],
            "country: DE or country: FR or country: NL",
        ),
        (&["not (country: DE or region: EU)"], "not country: DE and not region: EU"),
        (&["region: EU and (country: DE or country: NL)"], "region: EU and (country: DE or country: NL)"),
        (&["(country: DE or country: DE) or (country: NL and country: NL)"], "country: DE or country: NL"),
    ] {
        let id = compiled(expected).unwrap().id(&cluster());
        for text in texts {
            let found = compiled(text).unwrap();
            assert_eq!((found.canonical.as_str(), found.id(&cluster())), (expected, id), "{text}");
        }
    }
}

#[test]
fn what_is_unknown_is_an_error_under_the_word() {
    for (text, expected) in [
        (
            "regoin: EU",
            "error[unknown-label]: there is no label `regoin`\n  regoin: EU\n  ^^^^^^ did you mean `region`?",
        ),
        (
            "country: UK",
            "error[unknown-value]: there is no country `UK`\n  country: UK\n           ^^ did you mean `country: GB`?",
        ),
        (
            "country: EU",
            "error[unknown-value]: there is no country `EU`\n  country: EU\n           ^^ did you mean `region: EU`?",
        ),
        (
            "region: FR",
            "error[unknown-value]: `region` has no member `FR`\n  region: FR\n          ^^ did you mean `country: FR`?",
        ),
        ("dc: fro", "error[unknown-value]: there is no data centre `fro`\n  dc: fro\n      ^^^ did you mean `fra`?"),
        (
            "cluster: acme_prod",
            "error[reserved-label]: `cluster` is reserved\n  cluster: acme_prod\n  ^^^^^^^ leave the policy out to have a key everywhere",
        ),
        (
            "region_EU: 1",
            "error[unknown-label]: there is no label `region_EU`\n  region_EU: 1\n  ^^^^^^^^^ labels are country, dc, region, standard, tier",
        ),
    ] {
        assert_eq!(compiled(text).unwrap_err().to_string(), expected);
    }
    let (schema, data_centers) = (schema(), centers());
    let held = |label: &str| label != "standard_pci";
    let words = Vocabulary { schema: &schema, data_centers: &data_centers, held: &held };
    let refused = compile("not standard: pci", &cluster(), &words).unwrap_err();
    assert_eq!((refused.code, refused.span), ("not-issued-yet", Span { start: 14, end: 17 }));
}

#[test]
fn a_policy_that_nobody_meets_says_where_and_why() {
    let why = |text: &str| compiled(text).unwrap().unsatisfied(&machines()).map(|problem| problem.to_string());
    assert_eq!(
        why("(country: US) and (region: EU)").unwrap(),
        "error[no-data-centre]: no data centre satisfies this policy\n  (country: US) and (region: EU)\n                \
         ^^^ a data centre cannot be in two countries: did you mean `or`?"
    );
    assert!(why("country: DE and country: NL or dc: nrt and country: US").unwrap().contains("did you mean `or`?"));
    assert_eq!(
        why("country: ES").unwrap(),
        "error[no-data-centre]: no data centre satisfies this policy\n  country: ES\n  ^^^^^^^^^^^ no data centre that is up meets this"
    );
    assert!(why("region: EU and standard: pci").unwrap().contains("no data centre that is up meets this"));
    for met in ["(country: US) or (region: EU)", "region: EU and (not country: FR)", "not region: EU"] {
        assert_eq!(why(met), None, "{met}");
    }
    let nobody = compiled("region: EU").unwrap().unsatisfied(&[]);
    assert_eq!(nobody.unwrap().code, "no-data-centre");
}

/// Policy texts of real words, some levels deep.
fn texts() -> impl Strategy<Value = String> {
    let words =
        ["region: EU", "country: DE", "country: FR", "dc: iad", "region: APAC", "tier: standard", "standard: pci"];
    let leaf = proptest::sample::select(words.to_vec()).prop_map(str::to_owned);
    leaf.prop_recursive(4, 24, 3, |inner| {
        let two = (inner.clone(), inner.clone(), any::<bool>());
        prop_oneof![
            inner.prop_map(|text| format!("not ({text})")),
            two.prop_map(|(a, b, both)| format!("({a}) {} ({b})", if both { "and" } else { "or" })),
        ]
    })
}

proptest! {
    #[test]
    fn the_canonical_text_compiles_to_the_same_policy_id(text in texts()) {
        let first = compiled(&text).unwrap();
        let second = compiled(&first.canonical).unwrap();
        prop_assert_eq!(first.id(&cluster()), second.id(&cluster()));
        prop_assert_eq!(&first.canonical, &second.canonical);
    }

    #[test]
    fn equal_ids_have_equal_canonical_texts(a in texts(), b in texts()) {
        let (a, b) = (compiled(&a).unwrap(), compiled(&b).unwrap());
        prop_assert_eq!(a.id(&cluster()) == b.id(&cluster()), a.canonical == b.canonical);
    }

    #[test]
    fn no_text_panics_and_every_problem_points_into_it(text in "\\PC{0,80}") {
        if let Err(problem) = compiled(&text) {
            prop_assert!(problem.span.start <= problem.span.end && problem.span.end <= text.len());
            let _ = problem.to_string();
        }
    }

    #[test]
    fn unsatisfied_is_said_exactly_when_no_machine_satisfies(text in texts()) {
        let compiled = compiled(&text).unwrap();
        let nobody = !machines().iter().any(|machine| compiled.policy.is_satisfied_by(machine));
        prop_assert_eq!(compiled.unsatisfied(&machines()).is_some(), nobody);
    }
}
