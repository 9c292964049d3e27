// The live stream: one WebSocket that comes back by itself.

const LONGEST_WAIT_SECONDS = 10;
const SILENCE_SECONDS = 20; // the service says something at least every 10
const NOT_PERMITTED = 1008;

export class Stream {
  /**
   * @param {string[]} runs none for all
   * @param {{message: (message: any) => void, state: (state: "connecting"|"live"|"waiting"|"refused", seconds?: number) => void}} listener
   */
  constructor(runs, listener) {
    const url = new URL("api/v1/stream", document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    url.hash = "";
    for (const run of runs) url.searchParams.append("run", run);
    this.url = url;
    this.listener = listener;
    this.failures = 0;
    this.isClosed = false;
    this.hurry = () => this.timer && this.socket === null && this.connect();
    window.addEventListener("online", this.hurry);
    this.connect();
  }

  connect() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.listener.state("connecting");
    const socket = new WebSocket(this.url);
    this.socket = socket;
    this.watch();
    socket.onmessage = ({ data }) => {
      this.watch();
      const message = JSON.parse(data);
      if (message.type === "snapshot") {
        this.failures = 0;
        this.listener.state("live");
      }
      this.listener.message(message);
    };
    socket.onclose = ({ code }) => this.lost(code);
  }

  /** A connection may die without a word. */
  watch() {
    clearTimeout(this.watchdog);
    this.watchdog = setTimeout(() => {
      if (!this.socket) return;
      this.socket.onclose = this.socket.onmessage = null;
      this.socket.close();
      this.lost(0);
    }, SILENCE_SECONDS * 1000);
  }

  lost(code) {
    clearTimeout(this.watchdog);
    this.socket = null;
    if (this.isClosed) return;
    if (code === NOT_PERMITTED) {
      this.listener.state("refused");
      return;
    }
    const seconds = Math.min(LONGEST_WAIT_SECONDS, 2 ** this.failures) * (0.5 + Math.random() / 2);
    this.failures += 1;
    this.listener.state("waiting", seconds);
    this.timer = setTimeout(() => this.connect(), seconds * 1000);
  }

  close() {
    this.isClosed = true;
    window.removeEventListener("online", this.hurry);
    clearTimeout(this.timer);
    clearTimeout(this.watchdog);
    this.socket?.close();
  }
}
