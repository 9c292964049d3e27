// Who asks, and the dialogs: to log in with a token, and to be sure.

import { ask } from "./api.js";
import { el, say } from "./dom.js";

/** @type {{name: string|null, role: string|null, authenticated: boolean, may_log_in: boolean}|null} */
let caller = null;

/** Asks who we are and says it on the button in the header. */
export async function showSession() {
  const button = /** @type {HTMLElement} */ (document.getElementById("session"));
  caller = await ask("session").catch(() => null);
  button.hidden = !caller?.may_log_in;
  say(button, caller?.authenticated ? `${caller.name} · ${caller.role}` : "Log in");
}

/**
 * Asks for a token until one is right. @param {string} why
 * @returns {Promise<boolean>} false where it was given up
 */
export function logIn(why = "") {
  const token = /** @type {HTMLInputElement} */ (
    el("input", {
      type: "password",
      id: "token",
      name: "token",
      autocomplete: "current-password",
      required: true,
      spellcheck: "false",
    })
  );
  const trouble = el("p", { class: "trouble", role: "alert" });
  const submit = async () => {
    try {
      await ask("session", { method: "POST", body: { token: token.value.trim() } });
      await showSession();
      return true;
    } catch (/** @type {any} */ error) {
      say(trouble, error.isRefused ? "This token is not known, or it has expired." : error.message);
      token.select();
      return false;
    }
  };
  const leave = async () => {
    await ask("session", { method: "DELETE" }).catch(() => null);
    await showSession();
    return true;
  };
  return dialog(
    "Log in",
    "Log in",
    submit,
    [
      why && el("p", {}, why),
      el("label", { for: "token" }, "Token"),
      token,
      el(
        "p",
        { class: "hint" },
        "On the service's machine the local token is in the file ",
        el("code", {}, "local-token"),
        " beside its database, by default ",
        el("code", {}, "~/.local/state/trainvitals/local-token"),
        ". For others an administrator makes one with ",
        el("code", {}, "trainvitals token create"),
        ".",
      ),
      trouble,
    ],
    caller?.authenticated ? el("button", { type: "button", class: "quiet" }, "Log out") : null,
    leave,
  );
}

/** @param {string} title @param {string} text @param {string} action @returns {Promise<boolean>} */
export function confirm(title, text, action) {
  return dialog(title, action, async () => true, [el("p", {}, text)]);
}

function dialog(title, action, submit, content, other = null, onother = async () => true) {
  return new Promise((resolve) => {
    const done = (outcome) => {
      box.close();
      box.remove();
      resolve(outcome);
    };
    const form = el(
      "form",
      { method: "dialog" },
      el("h2", { id: "dialog-title" }, title),
      ...content,
      el(
        "div",
        { class: "actions" },
        other,
        el("button", { type: "button", class: "quiet", onclick: () => done(false) }, "Cancel"),
        el("button", { type: "submit", class: "primary" }, action),
      ),
    );
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (await submit()) done(true);
    });
    other?.addEventListener("click", async () => (await onother()) && done(true));
    const box = /** @type {HTMLDialogElement} */ (
      el("dialog", { "aria-labelledby": "dialog-title", oncancel: () => done(false) }, form)
    );
    document.body.append(box);
    box.showModal();
  });
}
