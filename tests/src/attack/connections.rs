//! Attacks on the number of connections: more than the server has file descriptors for, and churn.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::peer::{Peer, connect};
use super::{Metric, Target};
use crate::raw::{masked, opcode};

/// Opens more connections than the server may have file descriptors.
pub(super) async fn descriptors(target: &Target) -> Vec<Metric> {
    const SOCKETS: usize = 400;
    let mut kept = Vec::new();
    for _ in 0..SOCKETS {
        // The kernel completes the TCP handshake for connections in the backlog.
        if let Ok(Ok(stream)) = timeout(Duration::from_secs(1), connect(target.address)).await {
            kept.push(stream);
        }
    }
    let (begun, cpu) = (Instant::now(), target.process.cpu());
    sleep(target.scale.length).await;
    let used = target.process.cpu().saturating_sub(cpu).as_secs_f64();
    let share = used / begun.elapsed().as_secs_f64() * 100.0;
    let released = Instant::now();
    kept.clear();
    let mut serving = Duration::from_secs(99);
    while released.elapsed() < Duration::from_secs(10) {
        if let Ok(Ok(_)) =
            timeout(Duration::from_secs(2), Peer::open(target.address, "/echo")).await
        {
            serving = released.elapsed();
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    vec![
        Metric::limited("CPU", share, 5.0, "%"),
        Metric::seconds(
            "serving again after",
            serving,
            serving.as_secs() < 99,
            Duration::from_secs(1),
        ),
    ]
}

/// Opens and closes connections, in turn by a close frame, by RST, and by RST inside a frame.
pub(super) async fn churn(target: &Target) -> Vec<Metric> {
    let before = target.process.descriptors();
    let until = Instant::now() + target.scale.length;
    let begun = Instant::now();
    let mut churning = JoinSet::new();
    for _ in 0..8 {
        let address = target.address;
        churning.spawn(async move {
            let mut count = 0_u64;
            while Instant::now() < until {
                let Ok(mut peer) = Peer::open(address, "/echo").await else { continue };
                let end = masked(opcode::CLOSE, &1000_u16.to_be_bytes());
                match count % 3 {
                    0 => drop(peer.write(&end).await),
                    1 => {}
                    _ => drop(peer.write(&masked(opcode::TEXT, b"bye")[..4]).await),
                }
                let stream = peer.into_stream();
                // A port in TIME_WAIT could not be reused.
                if !count.is_multiple_of(3) {
                    drop(stream.set_zero_linger());
                }
                drop(stream);
                count += 1;
            }
            count
        });
    }
    let count: u64 = churning.join_all().await.iter().sum();
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    let mut left = usize::MAX;
    for _ in 0..100 {
        left = target.process.descriptors().saturating_sub(before);
        if left == 0 {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    vec![
        Metric::unlimited("connections", format!("{count}, {rate:.0}/s")),
        Metric::count("descriptors left", left as u64, 0),
    ]
}
