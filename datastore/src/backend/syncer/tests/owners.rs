//! Two keys that name one object.

use super::*;

#[test]
fn an_object_whose_both_keys_are_gone_needs_no_second_listing() {
    let mut rig = Rig::new();
    rig.transact(&[("/a", Some("=:0"))]);
    rig.transact(&[("/e", Some("=shared:0"))]);
    // The older key takes the object over; the value of the other is not kept.
    rig.transact(&[("/a", Some("=shared:0"))]);
    rig.revision += 1;
    rig.write("/e", None);
    rig.write("/a", None);
    rig.list(usize::MAX);
}

/// Found by the property below: the key that would come next is gone too, which a listing finds out
/// later than that the first key became another object.
#[test]
fn an_object_is_handed_past_a_key_that_is_gone() {
    let mut rig = Rig::new();
    rig.transact(&[("/d", Some("=:0"))]);
    rig.transact(&[("/a", Some("=shared:0"))]);
    rig.transact(&[("/b", Some("=shared:1"))]);
    rig.transact(&[("/d", Some("=shared:0"))]);
    rig.revision += 1;
    rig.write("/d", Some("=:0"));
    rig.write("/a", None);
    rig.list(usize::MAX);
}

#[test]
fn of_two_keys_with_one_object_the_older_is_the_object() {
    let mut rig = Rig::new();
    rig.transact(&[("/b", Some("=x:old"))]);
    let batch = rig.transact(&[("/a", Some("=x:young"))]).unwrap();
    assert!(batch.updates.is_empty());
    assert_eq!(batch.rejections[0].key, "/a");
    assert!(batch.rejections[0].reason.contains("/b"), "{}", batch.rejections[0].reason);
    // The older one goes: the object changes and is not deleted in between.
    let batch = rig.transact(&[("/b", None)]).unwrap();
    assert_eq!(rig.reader.objects.values().collect::<Vec<_>>(), ["young"]);
    assert_eq!(batch.updates.len(), 1);
    assert_eq!(batch.accepted, ["/a"]);
    // And the other way round: the second goes, the first stays as it is.
    rig.transact(&[("/c", Some("=x:third"))]);
    let batch = rig.transact(&[("/c", None)]).unwrap();
    assert!(batch.updates.is_empty());
    assert_eq!(batch.accepted, ["/c"]);
}

#[test]
fn a_value_that_was_not_kept_is_listed_and_the_object_never_deleted() {
    let mut rig = Rig::new();
    rig.revision = 1;
    rig.write("/b", Some("=x:older"));
    rig.revision = 2;
    rig.write("/a", Some("=x:younger"));
    // Keys are listed in order, so the younger was the object for a moment.
    rig.list(usize::MAX);
    assert_eq!(rig.reader.objects.values().collect::<Vec<_>>(), ["older"]);
    let batch = rig.transact(&[("/b", None)]).unwrap();
    assert!(batch.updates.iter().all(|update| matches!(update, Update::Profile(_, Some(_)))));
    assert_eq!(rig.reader.objects.values().collect::<Vec<_>>(), ["younger"]);
}

/// Found by the property below: the key next in age was gone too, but not yet swept.
#[test]
fn a_younger_key_takes_over_when_the_older_ones_go_together() {
    let mut rig = Rig::new();
    for (key, value) in
        [("/g", "=:0"), ("/e", "=:0"), ("/a", "=both:0"), ("/e", "=both:1"), ("/g", "=both:2")]
    {
        rig.transact(&[(key, Some(value))]);
    }
    rig.revision += 1;
    rig.write("/e", None);
    rig.write("/g", Some("=:0"));
    let batch = rig.list(usize::MAX).unwrap();
    assert!(names(&batch).iter().any(|name| name.contains("both")), "{batch:?}");
    assert_eq!(batch.accepted, ["/a", "/e"]);
}
