//! Amazon S3, or a store that speaks its language.

use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::client::CredentialProvider;
use secrecy::ExposeSecret;

use super::client::PerThread;
use super::leftovers::Lister;
use super::renew::{self, Renewal, Renewed};
use super::{Opened, Setting};
use crate::plan::{BucketPlan, S3Credentials};

pub(super) fn open(
    setting: &Setting<'_>,
    region: &str,
    path_style: bool,
    credentials: &S3Credentials,
) -> object_store::Result<Opened> {
    let url = bucket_url(setting.plan, region, path_style);
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&setting.plan.bucket)
        .with_region(region)
        .with_endpoint(&url)
        // The endpoint names the bucket already, in its host or its path.
        .with_virtual_hosted_style_request(true)
        .with_client_options(setting.options.clone())
        .with_http_connector(setting.connector.clone())
        .with_retry(setting.retries.clone())
        // TLS guards the bytes on their way; hashing a part would hold up a loop.
        .with_unsigned_payload(setting.tls)
        // A single delete is what every store has.
        .with_disable_bulk_delete(true);
    let mut renewal = None;
    match credentials {
        S3Credentials::Keys { id, secret, token } => {
            builder = builder
                .with_access_key_id(id.expose_secret())
                .with_secret_access_key(secret.expose_secret());
            if let Some(token) = token {
                builder = builder.with_token(token.expose_secret());
            }
        }
        S3Credentials::Ambient(variables) => {
            let renewed = ambient(setting, region, variables)?;
            renewal = Some(Arc::clone(&renewed) as Arc<dyn Renewal>);
            builder = builder.with_credentials(renewed);
        }
    }
    let store = builder.build()?;
    let lister = Lister::S3(Arc::clone(store.credentials()), region.to_owned());
    Ok(Opened { remote: Arc::new(store), lister, renewal, url })
}

/// Where variables of the environment say that they come from.
fn ambient(
    setting: &Setting<'_>,
    region: &str,
    variables: &[(String, String)],
) -> object_store::Result<Arc<Renewed<AwsCredential>>> {
    let known = |(name, value): &(String, String)| {
        let key: AmazonS3ConfigKey = name.to_ascii_lowercase().parse()?;
        Ok((key, value.clone()))
    };
    let variables: Vec<_> = variables.iter().map(known).collect::<object_store::Result<_>>()?;
    let (bucket, region) = (setting.plan.bucket.clone(), region.to_owned());
    // After the bucket's own, as often as it is asked for.
    let connector = PerThread::apart();
    let asking = setting.asking.clone();
    Renewed::new(move || {
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&bucket)
            .with_region(&region)
            .with_client_options(asking.clone())
            .with_http_connector(connector.again())
            .with_retry(renew::retries());
        for (key, value) in &variables {
            builder = builder.with_config(*key, value);
        }
        let provider = Arc::clone(builder.build()?.credentials());
        Ok(provider as Arc<dyn CredentialProvider<Credential = AwsCredential>>)
    })
}

/// `https://host/bucket` or `https://bucket.host`.
fn bucket_url(plan: &BucketPlan, region: &str, path_style: bool) -> String {
    let bucket = &plan.bucket;
    let endpoint = plan.endpoint.as_ref().map_or_else(
        || format!("https://s3.{region}.amazonaws.com"),
        |url| url.as_str().trim_end_matches('/').to_owned(),
    );
    match endpoint.split_once("://") {
        Some((scheme, rest)) if !path_style => format!("{scheme}://{bucket}.{rest}"),
        _ => format!("{endpoint}/{bucket}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Provider;

    #[test]
    fn the_bucket_stands_in_the_path_or_in_the_host() {
        let of = |endpoint: Option<&str>, path_style| {
            let plan = BucketPlan {
                bucket: "b".into(),
                prefix: String::new(),
                endpoint: endpoint.map(|url| url.parse().unwrap()),
                concurrency: 1,
                provider: Provider::S3 {
                    region: String::new(),
                    path_style,
                    credentials: S3Credentials::Ambient(Vec::new()),
                },
            };
            bucket_url(&plan, "eu-west-1", path_style)
        };
        assert_eq!(of(None, false), "https://b.s3.eu-west-1.amazonaws.com");
        assert_eq!(of(None, true), "https://s3.eu-west-1.amazonaws.com/b");
        assert_eq!(of(Some("http://h:9000/"), true), "http://h:9000/b");
        assert_eq!(of(Some("http://h:9000"), false), "http://b.h:9000");
        assert_eq!(of(Some("https://h/s3/"), true), "https://h/s3/b");
    }
}
