import { useState } from "react";
import { createRoot } from "react-dom/client";
import { createCampanile, useCampanile } from "./useCampanile.js";

const query = new URLSearchParams(location.search);
// Once for the page, outside of every component: StrictMode and reloads of a module must not make two.
const campanile = createCampanile(query.get("url") ?? "ws://127.0.0.1:8080/ws");

function Feed({ channel }) {
  const { messages, isStale, state } = useCampanile(campanile, channel);
  return (
    <section>
      <p role="status">
        {channel}: {state}
        {isStale && " (some messages could not be recovered)"}
      </p>
      <ul>
        {messages.map((message) => (
          <li key={message.seq === undefined ? `${message.timestamp}` : `${message.epoch}:${message.seq}`}>
            {typeof message.data === "string" ? message.data : JSON.stringify(message.data)}
          </li>
        ))}
      </ul>
    </section>
  );
}

function App() {
  const [channel, setChannel] = useState(query.get("channel") ?? "news");
  return (
    <main>
      <h1>Campanile in React</h1>
      <label>
        Channel <input value={channel} onChange={(event) => setChannel(event.target.value)} />
      </label>
      {channel !== "" && <Feed channel={channel} />}
    </main>
  );
}

createRoot(document.getElementById("root")).render(<App />);
