// Runs before the page's own scripts. What the page's handler is given is written down at that very call, so that it
// can be told from what merely reached the browser; `handled` has one list of frames for each socket.
(() => {
  const record = { handled: [], violations: [], sightings: [] };
  Object.defineProperty(window, "record", { value: record });
  document.addEventListener("securitypolicyviolation", (event) =>
    record.violations.push(`${event.effectiveDirective}: ${event.blockedURI} ${event.sample}`),
  );
  const Plain = window.WebSocket;
  window.WebSocket = class WebSocket extends Plain {
    #frames = [];

    constructor(...given) {
      super(...given);
      record.handled.push(this.#frames);
    }

    get onmessage() {
      return super.onmessage;
    }

    set onmessage(handler) {
      super.onmessage =
        handler &&
        ((message) => {
          this.#frames.push(message.data);
          handler(message);
        });
    }
  };
})();
