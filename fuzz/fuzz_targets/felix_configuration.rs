//! FelixConfiguration, and the settings that follow from it.
#![no_main]

use calico_agent::config::{Env, FileConfig, Settings, Sources, resolve};
use calico_datastore::layout::v3::RESOURCES_PREFIX;
use calico_datastore::model::Update;

libfuzzer_sys::fuzz_target!(|value: &[u8]| {
    let key = format!("{RESOURCES_PREFIX}felixconfigurations/default");
    let Some(Update::FelixConfiguration(_, Some(object))) = calico_fuzz::resource(&key, value)
    else {
        return;
    };
    let (env, file, defaults) = (Env::default(), FileConfig::default(), Settings::default());
    let sources = Sources { env: &env, file: &file, node: None, global: Some(&object) };
    let first = resolve(&sources, &defaults, None);
    // Saying the same again changes nothing, whatever was kept of last time.
    let again = resolve(&sources, &defaults, Some(&first));
    assert_eq!(first.settings, again.settings);
    assert_eq!(first.given, again.given);
    // Of what one object says, each name is used, refused or ignored: at most one of them.
    let told = first.given.len() + first.problems.len() + first.ignored.len();
    assert!(told <= object.parameters.len(), "{first:?}");
    // The same object for this node wins over itself.
    let both = Sources { node: Some(&object), ..sources };
    assert_eq!(resolve(&both, &defaults, None).settings, first.settings);
});
