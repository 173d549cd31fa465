//! `tollgate setup`: the streams and buckets on NATS.

use tollgate_actors::nats;

use super::nats::{connect, told, with_rights};
use super::{Exit, publisher_plan};
use crate::cli::{Global, SetupArgs};
use crate::ui::{print, say};

pub(crate) fn run(global: &Global, args: &SetupArgs) -> anyhow::Result<Exit> {
    let Some(plan) = publisher_plan(global) else { return Ok(Exit::Usage) };
    actix_rt::System::new().block_on(async {
        let bus = connect(&plan, "setup").await?;
        match with_rights(&bus, async { Ok(nats::setup(&bus, &plan.nats, !args.dry_run).await) })
            .await?
        {
            Ok(all) => {
                for one in all {
                    print(format_args!("{one}"))?;
                }
                Ok(Exit::Done)
            }
            Err(error) if args.dry_run => {
                say(format_args!("tollgate: {error}"));
                Ok(Exit::Failed)
            }
            Err(error) => Err(told(error)),
        }
    })
}
