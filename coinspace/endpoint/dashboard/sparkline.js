// Small lines without axes; a hole in the points is a hole in the line.

/** The SVG path of points, null = a hole. */
export function sparkPath(points, width, height) {
  const known = points.filter((one) => one !== null);
  if (!known.length) return "";
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const x = (i) => ((i / Math.max(1, points.length - 1)) * (width - 2) + 1).toFixed(1);
  const y = (one) => (high === low ? height / 2 : height - 2 - ((one - low) / (high - low)) * (height - 4)).toFixed(1);
  let path = "";
  points.forEach((one, i) => {
    if (one === null) return;
    const joined = i > 0 && points[i - 1] !== null;
    // a point between two holes is a short stroke
    path += joined ? `L${x(i)} ${y(one)}` : `M${x(i)} ${y(one)}h.5`;
  });
  return path;
}
