// Choices that the browser keeps. Without storage (blocked, full) they last as long as the page.

function kept(open) {
  const own = new Map();
  const storage = () => { try { return open(); } catch { return null; } };
  return {
    get(key) { try { return own.get(key) ?? storage()?.getItem(key) ?? null; } catch { return own.get(key) ?? null; } },
    set(key, value) { own.set(key, value); try { storage()?.setItem(key, value); } catch { /* kept in `own` */ } },
  };
}

/** Choices kept for the browser. */
export const browser = kept(() => window.localStorage);

/** Choices kept for this tab. */
export const tab = kept(() => window.sessionStorage);
