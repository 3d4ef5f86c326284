//! Makes a failing world small.

use serde_json::Value;

use crate::world::World;

/// Drops objects, then entries of lists and fields of their specs and labels, as long as `fails`
/// still says yes. What comes out fails, and fails no more when one more thing is left out. Fields
/// that an object is no object without may be dropped as well: it is then absent, which is smaller
/// still.
pub fn shrink(world: &World, mut fails: impl FnMut(&World) -> bool) -> World {
    let mut world = world.clone();
    // Many objects at once first: most have nothing to do with it.
    let mut portion = world.objects.len().div_ceil(2);
    while portion > 0 {
        let keys: Vec<String> = world.objects.keys().cloned().collect();
        for some in keys.chunks(portion) {
            let mut smaller = world.clone();
            smaller.objects.retain(|key, _| !some.contains(key));
            if fails(&smaller) {
                world = smaller;
            }
        }
        portion /= 2;
    }
    loop {
        let before = world.clone();
        let keys: Vec<String> = world.objects.keys().cloned().collect();
        for key in keys {
            let Some(value) = world.objects.get(&key).cloned() else { continue };
            let mut without = world.clone();
            without.objects.remove(&key);
            if fails(&without) {
                world = without;
                continue;
            }
            let mut keeps = |value: &Value| {
                let mut smaller = world.clone();
                smaller.objects.insert(key.clone(), value.clone());
                fails(&smaller)
            };
            let smaller = thin(&value, &mut |part| keeps(part));
            world.objects.insert(key, smaller);
        }
        if world == before {
            return world;
        }
    }
}

/// The value without whatever is not needed for `keeps`.
fn thin(value: &Value, keeps: &mut dyn FnMut(&Value) -> bool) -> Value {
    let mut value = value.clone();
    match &value {
        Value::Array(items) => {
            let mut at = 0;
            let mut items = items.clone();
            while at < items.len() {
                let mut fewer = items.clone();
                fewer.remove(at);
                if keeps(&Value::Array(fewer.clone())) {
                    items = fewer;
                } else {
                    at += 1;
                }
            }
            for at in 0..items.len() {
                let item = thin(&items[at], &mut |part| {
                    let mut changed = items.clone();
                    changed[at] = part.clone();
                    keeps(&Value::Array(changed))
                });
                items[at] = item;
            }
            value = Value::Array(items);
        }
        Value::Object(fields) => {
            let mut fields = fields.clone();
            let names: Vec<String> = fields.keys().cloned().collect();
            for name in names {
                let mut fewer = fields.clone();
                fewer.remove(&name);
                if keeps(&Value::Object(fewer.clone())) {
                    fields = fewer;
                    continue;
                }
                let field = thin(&fields[&name], &mut |part| {
                    let mut changed = fields.clone();
                    changed.insert(name.clone(), part.clone());
                    keeps(&Value::Object(changed))
                });
                fields.insert(name, field);
            }
            value = Value::Object(fields);
        }
        _ => {}
    }
    value
}
