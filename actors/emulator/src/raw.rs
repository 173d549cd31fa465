//! The answers that hyper would never give: written to the socket by hand, after hyper has read the request.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bulk::big_pieces;
use crate::rude::Rude;
use crate::server::Open;

/// How long a silent connection is kept for a client that does not give up.
const SILENCE_MAX: Duration = Duration::from_secs(3_600);

/// Misbehaves as told and ends the connection. `open` is let go before the client can see the end.
///
/// # Errors
/// When the client went away first.
pub(crate) async fn serve(
    mut stream: TcpStream,
    rude: &Rude,
    open: Option<Open>,
) -> io::Result<()> {
    match rude {
        Rude::HangAfterHead => {
            stream.write_all(head(1_000).as_bytes()).await?;
            silence(&mut stream).await;
        }
        Rude::Stall { after } => {
            stream.write_all(head(after.saturating_add(1_000)).as_bytes()).await?;
            for piece in big_pieces(*after) {
                stream.write_all(&piece).await?;
            }
            silence(&mut stream).await;
        }
        Rude::Reset => {
            drop(open);
            stream.set_zero_linger()?;
        }
        Rude::ResetMid => {
            stream.write_all(&promising(1_000, 500)).await?;
            drop(open);
            stream.set_zero_linger()?;
        }
        Rude::Short => {
            drop(open);
            stream.write_all(&promising(1_000, 500)).await?;
            stream.shutdown().await?;
        }
        Rude::Long => {
            drop(open);
            stream.write_all(&promising(10, 30)).await?;
            silence(&mut stream).await;
        }
        Rude::Garbage => {
            drop(open);
            stream.write_all(b"\x00\x01\x02 220 this is no web server\r\n\r\n").await?;
            stream.shutdown().await?;
        }
        Rude::Close => {
            drop(open);
            stream.write_all(&promising(500, 500)).await?;
            stream.shutdown().await?;
        }
        // What is not raw is served by hyper and does not come here.
        _ => silence(&mut stream).await,
    }
    Ok(())
}

/// Waits until the client goes away.
async fn silence(stream: &mut TcpStream) {
    let mut ignored = [0; 1024];
    let until_closed = async { while stream.read(&mut ignored).await.is_ok_and(|n| n > 0) {} };
    // Both ends are the same: the connection is dropped.
    tokio::time::timeout(SILENCE_MAX, until_closed).await.ok();
}

fn head(content_length: u64) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {content_length}\r\n\
         Connection: keep-alive\r\n\r\n"
    )
}

/// A head that promises so many bytes, and so many bytes.
fn promising(content_length: u64, sent: u64) -> Vec<u8> {
    let mut answer = head(content_length).into_bytes();
    big_pieces(sent).for_each(|piece| answer.extend_from_slice(&piece));
    answer
}
