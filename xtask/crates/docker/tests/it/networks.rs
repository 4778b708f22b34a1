//! Networks and volumes: made once, found again, never somebody else's.

use docker::{Attachment, Egress, Labels, NetworkSpec, VolumeSpec};

use crate::rig::Lab;

#[test]
fn a_network_is_made_once_and_refused_when_it_is_another() {
    let Some(lab) = Lab::open() else { return };
    let spec = NetworkSpec { labels: lab.labels(), ..NetworkSpec::new(lab.named("net")) };
    let made = lab.engine.ensure_network(&spec).unwrap();
    assert_eq!(lab.engine.ensure_network(&spec).unwrap(), made);
    assert_eq!((made.egress, made.subnets.len()), (Egress::None, 1));
    let open = NetworkSpec { egress: Egress::Open, ..spec.clone() };
    let error = lab.engine.ensure_network(&open).unwrap_err().to_string();
    assert!(error.contains("without egress") && error.contains("docker network rm"), "{error}");
    let foreign = NetworkSpec { labels: Labels::from([("a".into(), "b".into())]), ..spec.clone() };
    assert!(lab.engine.ensure_network(&foreign).unwrap_err().to_string().contains("somebody else"));
    assert_eq!(lab.engine.networks(&lab.labels()).unwrap(), [made]);
    assert!(
        lab.engine.remove_network(&spec.name).unwrap() && !lab.engine.remove_network(&spec.name).unwrap()
    );
}

#[test]
fn of_many_who_make_a_network_at_once_all_get_the_same_one() {
    let Some(lab) = Lab::open() else { return };
    let spec = NetworkSpec { labels: lab.labels(), ..NetworkSpec::new(lab.named("raced")) };
    let ids: std::collections::BTreeSet<String> = std::thread::scope(|scope| {
        let tries: Vec<_> =
            (0..4).map(|_| scope.spawn(|| lab.engine.ensure_network(&spec).unwrap().id)).collect();
        tries.into_iter().map(|tried| tried.join().unwrap()).collect()
    });
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(lab.engine.networks(&lab.labels()).unwrap().len(), 1);
}

#[test]
fn a_container_can_be_in_two_networks_at_a_fixed_address() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    let subnet = format!("10.213.{}.0/28", std::process::id() % 250);
    let fixed = NetworkSpec {
        labels: lab.labels(),
        subnet: Some(subnet.clone()),
        ..NetworkSpec::new(lab.named("fixed"))
    };
    let out =
        NetworkSpec { labels: lab.labels(), egress: Egress::Open, ..NetworkSpec::new(lab.named("out")) };
    lab.engine.ensure_network(&fixed).unwrap();
    lab.engine.ensure_network(&out).unwrap();
    let address = subnet.replace(".0/28", ".9").parse().unwrap();
    let mut spec = lab.spec("both", &image, &["sleep=60000"]);
    spec.networks =
        vec![Attachment { address: Some(address), ..Attachment::to(&fixed.name) }, Attachment::to(&out.name)];
    lab.engine.create(&spec).unwrap();
    lab.engine.start(&spec.name).unwrap();
    let found = lab.engine.container(&spec.name).unwrap().unwrap();
    assert_eq!(found.addresses[&fixed.name], address);
    assert!(found.addresses.contains_key(&out.name));
    spec.name = lab.named("lost");
    spec.networks.push(Attachment::to(lab.named("missing")));
    assert!(lab.engine.create(&spec).unwrap_err().to_string().contains("missing"));
    assert_eq!(lab.engine.container(&spec.name).unwrap(), None, "nothing is left of it");
}

#[test]
fn a_volume_is_made_once_and_never_taken_from_somebody_else() {
    let Some(lab) = Lab::open() else { return };
    let spec = VolumeSpec { name: lab.named("data"), labels: lab.labels() };
    let made = lab.engine.ensure_volume(&spec).unwrap();
    assert_eq!(lab.engine.ensure_volume(&spec).unwrap(), made);
    let foreign = VolumeSpec { labels: Labels::from([("a".into(), "b".into())]), ..spec.clone() };
    assert!(lab.engine.ensure_volume(&foreign).unwrap_err().to_string().contains("somebody else"));
    assert_eq!(lab.engine.volumes(&lab.labels()).unwrap(), [made]);
    assert!(lab.engine.remove_volume(&spec.name).unwrap() && !lab.engine.remove_volume(&spec.name).unwrap());
}
