//! Two processes of one authority over one store.

use super::world::World;
use crate::problem::{Code, Problem};
use crate::zones::{LimitsChange, ZoneView, Zones};

async fn add(zones: &Zones, id: &str, domain: &str) -> Result<ZoneView, Problem> {
    zones.add("test", id.parse().unwrap(), &[domain.to_owned()], LimitsChange::default()).await
}

#[tokio::test]
async fn overlapping_zones_added_at_once_do_not_both_come_to_be() {
    let world = World::new().await;
    let (one, two) = (world.rival(), world.rival());
    // Neither sees the other's zone in its directory.
    let (first, second) = tokio::join!(add(&one, "a", "eu.new.example"), add(&two, "b", "new.example"));
    assert_eq!(u8::from(first.is_ok()) + u8::from(second.is_ok()), 1, "{first:?} {second:?}");
    let refused = first.err().or(second.err()).unwrap();
    assert_eq!(refused.code(), Code::Conflict, "{refused:?}");
    // Who has caught up is told what is wrong, and may add what overlaps with nothing.
    let later = world.rival();
    let zones = later.list().into_iter().map(|zone| zone.id.to_string()).collect::<Vec<_>>();
    assert_eq!(zones.iter().filter(|id| ["a", "b"].contains(&id.as_str())).count(), 1, "{zones:?}");
    assert_eq!(add(&later, "c", "new.example").await.unwrap_err().code(), Code::ZoneOverlap);
    add(&later, "c", "other-name.example").await.unwrap();
    // A domain that is added to a zone meets the same guard.
    let stale = world.rival();
    add(&later, "d", "late.example").await.unwrap();
    let domains = ["other.example".to_owned(), "eu.late.example".to_owned()];
    let changed = stale.change("test", &"other".parse().unwrap(), Some(&domains), LimitsChange::default()).await;
    assert_eq!(changed.unwrap_err().code(), Code::Conflict);
}
