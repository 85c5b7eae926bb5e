// Before the page's own scripts: a clock that a test may set, a browser without storage and
// notifications, and a record of every shift of the layout.
const asked = new URLSearchParams(location.search);
window.skew = Number(asked.get("skew"));
const real = Date.now;
Date.now = () => real() + window.skew;
if (asked.has("bare")) {
  const denied = { get() { throw new DOMException("denied", "SecurityError"); } };
  for (const name of ["localStorage", "sessionStorage"]) Object.defineProperty(window, name, denied);
  delete window.Notification;
}
window.shifts = [];
new PerformanceObserver((found) => {
  for (const one of found.getEntries()) if (!one.hadRecentInput) {
    window.shifts.push({ value: one.value, of: one.sources.map((each) => each.node?.id || each.node?.className || each.node?.nodeName) });
  }
}).observe({ type: "layout-shift", buffered: true });
