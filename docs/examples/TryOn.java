// Upload a photo and follow its session over a WebSocket, with nothing but Java 11 or newer:
//   java TryOn.java http://127.0.0.1:8000 photo.jpg

import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.WebSocket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

public class TryOn {
    public static void main(String[] arguments) throws Exception {
        String server = arguments[0];
        HttpClient client = HttpClient.newHttpClient(); // it offers HTTP/2: `Upgrade: h2c`

        String boundary = "tryon-boundary";
        ByteArrayOutputStream form = new ByteArrayOutputStream();
        form.write(("--" + boundary + "\r\nContent-Disposition: form-data; name=\"image\"; filename=\"photo.jpg\"\r\n\r\n")
            .getBytes(StandardCharsets.US_ASCII));
        form.write(Files.readAllBytes(Path.of(arguments[1])));
        form.write(("\r\n--" + boundary + "--\r\n").getBytes(StandardCharsets.US_ASCII));

        HttpResponse<String> session = client.send(
            HttpRequest.newBuilder(URI.create(server + "/api/tryon/sessions"))
                .header("Content-Type", "multipart/form-data; boundary=" + boundary)
                .POST(HttpRequest.BodyPublishers.ofByteArray(form.toByteArray()))
                .build(),
            HttpResponse.BodyHandlers.ofString());
        if (session.statusCode() != 201) {
            throw new IllegalStateException(session.statusCode() + " " + session.body());
        }

        Matcher link = Pattern.compile("\"ws\":\\s*\"([^\"]+)\"").matcher(session.body());
        link.find(); // a JSON library does this better
        URI socket = URI.create(server.replaceFirst("^http", "ws")).resolve(link.group(1));
        CompletableFuture<Void> ended = new CompletableFuture<>();
        client.newWebSocketBuilder().subprotocols("tryon.v1").buildAsync(socket, new Frames(ended)).join();
        ended.join();
        System.exit(0); // the client's threads live on for a while otherwise
    }

    /** Prints each frame. */
    private static final class Frames implements WebSocket.Listener {
        private final CompletableFuture<Void> ended;
        private final StringBuilder frame = new StringBuilder();

        Frames(CompletableFuture<Void> ended) {
            this.ended = ended;
        }

        @Override
        public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean last) {
            frame.append(part);
            if (last) {
                System.out.println(frame);
                frame.setLength(0);
            }
            socket.request(1);
            return null;
        }

        @Override
        public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
            ended.complete(null);
            return null;
        }

        @Override
        public void onError(WebSocket socket, Throwable error) {
            ended.completeExceptionally(error);
        }
    }
}
