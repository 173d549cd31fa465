//! Objects in a bucket: where it is, and whose keys are used.

use secrecy::ExposeSecret;

use super::*;
use crate::codes::Code;
use crate::plan::{
    AzureCredentials, BucketPlan, GoogleCredentials, Provider, S3Credentials, StoreTarget,
};

/// A plan's bucket; `env` beside the configuration.
fn bucket(text: &str, env: &[(&str, &str)]) -> BucketPlan {
    let loaded = load_with(&format!("{BASE}\n[store]\n{text}"), env);
    match loaded.unwrap_or_else(|mistakes| panic!("{mistakes}")).plan.store.target {
        StoreTarget::Bucket(bucket) => *bucket,
        other => panic!("{other:?}"),
    }
}

/// Of a bucket of S3: its region, whether the path names it, and its credentials.
fn s3(plan: &BucketPlan) -> (&str, bool, &S3Credentials) {
    match &plan.provider {
        Provider::S3 { region, path_style, credentials } => (region, *path_style, credentials),
        other => panic!("{other:?}"),
    }
}

#[test]
fn objects_go_into_a_bucket_with_the_keys_of_the_environment() {
    let keys =
        [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hidden"), ("AWS_REGION", "r-1")];
    let plan = bucket("url = \"s3://my.bucket-1/a/b/\"", &keys);
    assert_eq!((&*plan.bucket, &*plan.prefix), ("my.bucket-1", "a/b"));
    let (region, path_style, credentials) = s3(&plan);
    assert_eq!(region, "r-1");
    assert!(plan.endpoint.is_none() && path_style, "no certificate has a bucket with a dot");
    assert!(matches!(credentials, S3Credentials::Keys { id, secret, token: None }
        if id.expose_secret() == "id" && secret.expose_secret() == "hidden"));
    assert!(!format!("{plan:?}").contains("hidden"));

    let plan = bucket("url = \"s3://bucket\"\nregion = \"eu-west-1\"", &keys);
    let (region, path_style, _) = s3(&plan);
    assert_eq!((&*plan.prefix, region, path_style), ("", "eu-west-1", false));
}

#[test]
fn a_bucket_elsewhere_has_an_endpoint_and_keys_by_reference() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "hidden").unwrap();
    let text = format!(
        "url = \"s3://bucket/a\"\nendpoint = \"http://minio:9000\"\nallow_http = true\n\
         access_key_id = \"env:ID\"\nsecret_access_key = \"file:{}\"\nsession_token = \"env:ID\"",
        file.path().display()
    );
    let env = [("ID", "x"), ("AWS_ACCESS_KEY_ID", "not this one")];
    let plan = bucket(&text, &env);
    assert_eq!(plan.endpoint.as_ref().unwrap().as_str(), "http://minio:9000/");
    let (region, path_style, credentials) = s3(&plan);
    assert!(path_style);
    assert_eq!(region, "us-east-1");
    assert!(matches!(credentials, S3Credentials::Keys { id, secret, token: Some(token) }
        if [id, token].iter().all(|x| x.expose_secret() == "x") && secret.expose_secret() == "hidden"));
    let told = describe(&load_with(&format!("{BASE}\n[store]\n{text}"), &env).unwrap().plan);
    let place =
        "bucket bucket below a/ at http://minio:9000/, region us-east-1, with temporary keys";
    assert!(told.contains(place) && !told.contains("hidden"), "{told}");
}

#[test]
fn a_machine_without_keys_has_a_role() {
    let env =
        [("AWS_ROLE_ARN", "arn:x"), ("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"), ("AWS_PROFILE", "p")];
    let plan = bucket("url = \"s3://bucket\"\nregion = \"eu-west-1\"", &env);
    let S3Credentials::Ambient(told) = s3(&plan).2 else { panic!("{plan:?}") };
    let names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"]);
}

#[test]
fn keys_in_files_that_are_not_read_are_refused_unless_others_are_given() {
    let text = "url = \"s3://bucket\"\nregion = \"eu-west-1\"";
    let home = tempfile::TempDir::new().unwrap();
    let home_path = home.path().to_str().unwrap();
    let refused = |env: &[(&str, &str)]| {
        let mistakes = load_with(&format!("{BASE}\n[store]\n{text}"), env).unwrap_err();
        assert_eq!(mistakes.list().len(), 1, "{mistakes}");
        assert_eq!(mistakes.list()[0].code, Code::NotSupported, "{mistakes}");
        mistakes.to_string()
    };
    assert!(refused(&[("AWS_PROFILE", "prod")]).contains("`prod`"));
    assert!(matches!(s3(&bucket(text, &[("HOME", home_path)])).2, S3Credentials::Ambient(_)));
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    let file = home.path().join(".aws/credentials");
    std::fs::write(&file, "[default]\n").unwrap();
    assert!(refused(&[("HOME", home_path)]).contains(".aws/credentials"));
    let file = file.to_str().unwrap();
    assert!(refused(&[("AWS_SHARED_CREDENTIALS_FILE", file)]).contains(".aws/credentials"));
    for (name, value) in [
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://x"),
    ] {
        let plan = bucket(text, &[("HOME", home_path), (name, value)]);
        assert!(matches!(s3(&plan).2, S3Credentials::Ambient(_)), "{name}");
    }
    let keys = [("HOME", home_path), ("AWS_ACCESS_KEY_ID", "i"), ("AWS_SECRET_ACCESS_KEY", "s")];
    assert!(matches!(s3(&bucket(text, &keys)).2, S3Credentials::Keys { .. }));
}

/// What a configuration with this `[store]` says of it, and the debug form of its plan.
fn told(text: &str, env: &[(&str, &str)]) -> String {
    let plan = load_with(&format!("{BASE}\n[store]\n{text}"), env)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
        .plan;
    format!("{}\n{:?}", describe(&plan), plan.store)
}

#[test]
fn a_bucket_of_google_is_asked_as_googles_tools_do() {
    const KEY: &str = r#"{"type":"service_account","private_key":"hidden","client_email":"e"}"#;
    const USER: &str = r#"{"type":"authorized_user","refresh_token":"hidden"}"#;
    let file = |text: &str| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "{text}").unwrap();
        file
    };
    let of = |text: &str, env: &[(&str, &str)]| {
        let text = format!("url = \"gs://bucket_1/a\"\n{text}");
        assert!(!told(&text, env).contains("hidden"));
        let plan = bucket(&text, env);
        assert_eq!((&*plan.bucket, &*plan.prefix), ("bucket_1", "a"));
        match plan.provider {
            Provider::Google(credentials) => credentials,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(of("", &[]), GoogleCredentials::Ambient));
    let (key, user) = (file(KEY), file(USER));
    for found in [&key, &user] {
        let path = found.path().to_str().unwrap();
        let found = of("", &[("GOOGLE_APPLICATION_CREDENTIALS", path)]);
        assert!(matches!(found, GoogleCredentials::File(file) if file.to_str() == Some(path)));
    }
    let given = of(&format!("service_account = \"file:{}\"", key.path().display()), &[]);
    assert!(matches!(given, GoogleCredentials::ServiceAccount(key) if key.expose_secret() == KEY));
    // Of several lines, as Google hands it out.
    let lines = KEY.replace(',', ",\n");
    let given = of("service_account = \"env:KEY\"", &[("KEY", &lines)]);
    assert!(matches!(given, GoogleCredentials::ServiceAccount(_)));
    let given = of("access_token = \"env:T\"", &[("T", "hidden")]);
    assert!(matches!(given, GoogleCredentials::Token(token) if token.expose_secret() == "hidden"));
    let told = told("url = \"gs://bucket\"", &[]);
    let place = "bucket bucket at Google Cloud Storage, with credentials of this machine";
    assert!(told.contains(place), "{told}");
}

#[test]
fn a_container_of_azure_is_asked_as_azures_tools_do() {
    let of = |text: &str, env: &[(&str, &str)]| {
        let text = format!("url = \"az://con-tainer/a\"\n{text}");
        let mut all = vec![("AZURE_STORAGE_ACCOUNT", "acc0unt")];
        all.extend(env);
        assert!(!told(&text, &all).contains("aGlkZGVu"));
        match bucket(&text, &all).provider {
            Provider::Azure { account, credentials } => {
                assert_eq!(account, "acc0unt");
                credentials
            }
            other => panic!("{other:?}"),
        }
    };
    let is_key = |found: &AzureCredentials| matches!(found, AzureCredentials::Key(key) if key.expose_secret() == "aGlkZGVu");
    assert!(is_key(&of("account_key = \"env:K\"", &[("K", "aGlkZGVu")])));
    assert!(is_key(&of("", &[("AZURE_STORAGE_KEY", "aGlkZGVu")])));
    assert!(is_key(&of("", &[("AZURE_STORAGE_ACCOUNT_KEY", "aGlkZGVu")])));
    let sas = "?sv=2024-11-04&se=2030-01-01&sig=aGlkZGVu%3D";
    for found in
        [of("sas_token = \"env:S\"", &[("S", sas)]), of("", &[("AZURE_STORAGE_SAS_TOKEN", sas)])]
    {
        assert!(matches!(found, AzureCredentials::Sas(found) if found.expose_secret() == sas));
    }
    let principal = "tenant_id = \"t\"\nclient_id = \"c\"\nclient_secret = \"env:S\"";
    let environment =
        [("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c"), ("AZURE_CLIENT_SECRET", "aGlkZGVu")];
    for found in [of(principal, &[("S", "aGlkZGVu")]), of("", &environment)] {
        assert!(
            matches!(found, AzureCredentials::Principal { tenant, client, secret, authority: None }
            if tenant == "t" && client == "c" && secret.expose_secret() == "aGlkZGVu")
        );
    }
    // Another cloud's place to sign in, as Kubernetes writes it.
    let host = ("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.us/");
    let environment: Vec<_> = environment.into_iter().chain([host]).collect();
    for found in [of(principal, &[("S", "aGlkZGVu"), host]), of("", &environment)] {
        assert!(matches!(found, AzureCredentials::Principal { authority: Some(at), .. }
            if at == "https://login.microsoftonline.us"));
    }
    let AzureCredentials::Ambient(found) = of("", &[host]) else { panic!() };
    assert_eq!(found, [(host.0.to_owned(), "https://login.microsoftonline.us".to_owned())]);
    for bad in ["login.microsoftonline.us", "http://login.microsoftonline.us"] {
        let text = format!("{BASE}\n[store]\nurl = \"az://con\"\naccount = \"abc\"");
        let mistakes = load_with(&text, &[(host.0, bad)]).unwrap_err();
        assert!(mistakes.to_string().contains("AZURE_AUTHORITY_HOST"), "{bad}: {mistakes}");
    }
    let workload = [
        ("AZURE_TENANT_ID", "t"),
        ("AZURE_CLIENT_ID", "c"),
        ("AZURE_FEDERATED_TOKEN_FILE", "/token"),
        ("AZURE_SUBSCRIPTION_ID", "s"),
    ];
    let AzureCredentials::Ambient(found) = of("", &workload) else { panic!() };
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE"]);
    let told = told("url = \"az://con\"\naccount = \"abc\"", &[]);
    let place = "container con at Azure Blob Storage, account abc, with this machine's identity";
    assert!(told.contains(place), "{told}");
}

/// The lines of `init` about buckets, of which those of one kind are not behind a sign.
fn shown(url: &str, kind: &str) -> String {
    let mut inside = true;
    init_text()
        .lines()
        .map(|line| {
            // A line such as `# Of S3:` begins those of one kind.
            if let Some(other) = line.strip_prefix("# Of ") {
                inside = other.starts_with("all") || other.starts_with(kind);
            } else if line == "#" {
                inside = true;
            }
            let bare = if inside { line.strip_prefix("#   ").unwrap_or(line) } else { line };
            let url = format!("url = \"{url}\"");
            bare.replace("# url = \"file:./tollgate-data\"", &url)
                .replace("file:PATH\"", "env:NAME\"")
                + "\n"
        })
        .collect()
}

#[test]
fn what_init_shows_of_a_bucket_is_right() {
    let env = [("EXAMPLE_TOKEN", "t"), ("NAME", "bg==")];
    let load = |text: &str| {
        let loaded = load_with(text, &env);
        loaded.unwrap_or_else(|mistakes| panic!("{mistakes}")).plan.store.target
    };
    let StoreTarget::Bucket(plan) = load(&shown("s3://bucket", "S3")) else { panic!() };
    assert!(plan.endpoint.is_some() && s3(&plan).1);
    assert_eq!(s3(&plan).0, "ap-northeast-2");
    let text = shown("gs://bucket", "Google");
    let text = text.replace("service_account = \"env:NAME\"", "access_token = \"env:NAME\"");
    let StoreTarget::Bucket(plan) = load(&text) else { panic!() };
    assert!(matches!(plan.provider, Provider::Google(GoogleCredentials::Token(_))), "{text}");
    let StoreTarget::Bucket(plan) = load(&shown("az://container", "Azure")) else { panic!() };
    assert!(
        matches!(&plan.provider, Provider::Azure { account, credentials: AzureCredentials::Key(_) }
        if account == "myaccount")
    );
}
