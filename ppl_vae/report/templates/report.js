"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const key = (row, i) => {
    const text = row.cells[i].textContent.trim().replace("∞", "Infinity"), number = Number(text);
    return text === "" || Number.isNaN(number) ? text : number;
  };
  heads.forEach((head, i) => {
    if (body.rows.length && body.rows[0].cells[i].querySelector("img")) return;
    // No <button>: printed headers, which are repeated on each page, leave buttons out.
    const button = document.createElement("span");
    button.setAttribute("role", "button");
    button.tabIndex = 0;
    button.textContent = head.textContent;
    head.replaceChildren(button);
    const sort = () => {
      const up = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up > 0 ? "ascending" : "descending");
      const rows = [...body.rows].sort((one, other) => {
        const a = key(one, i), b = key(other, i);
        return up * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
      });
      body.append(...rows);
    };
    button.addEventListener("click", sort);
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sort();
    });
  });
  const label = document.createElement("label"), input = document.createElement("input");
  input.type = "search";
  label.className = "controls";
  label.append("Only rows with ", input);
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
  table.parentElement.before(label);
}
for (const source of document.querySelectorAll("script.points")) {
  const rows = JSON.parse(source.textContent), figure = source.parentElement, picture = figure.querySelector("img");
  const make = (name, kind, text) => {
    const element = document.createElement(name);
    if (kind) element.className = kind;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const xs = rows.points.map((p) => p[0]), ys = rows.points.map((p) => p[1]);
  const range = (values) => {
    const low = Math.min(...values), high = Math.max(...values), room = 0.05 * (high - low) || 1;
    return [low - room, high + room];
  };
  const [left, right] = range(xs), [low, high] = range(ys);
  const canvas = make("canvas"), map = make("div", "map"), key = make("ul", "key"), tip = make("div", "tip");
  const label = make("label", "", "Colour by "), select = make("select"), margin = { left: 46, right: 8, top: 8, bottom: 40 };
  const ramp = [[213, 94, 0], [230, 159, 0], [140, 160, 170], [86, 180, 233], [0, 114, 178]];
  const shade = (share) => {
    if (share === null) return "#8a8a90";
    const at = share * (ramp.length - 1), i = Math.min(Math.floor(at), ramp.length - 2);
    return `rgb(${ramp[i].map((from, c) => Math.round(from + (at - i) * (ramp[i + 1][c] - from))).join(",")})`;
  };
  const chosen = () => rows.colours[select.selectedIndex];
  const colour = (i) => (chosen().levels ? chosen().colours[chosen().places[i]] : shade(chosen().scale[i]));
  const place = (i) => [
    margin.left + ((xs[i] - left) / (right - left)) * (canvas.clientWidth - margin.left - margin.right),
    margin.top + ((high - ys[i]) / (high - low)) * (canvas.clientHeight - margin.top - margin.bottom),
  ];
  const ticks = (from, to) => {
    const rough = (to - from) / 5, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough), found = [];
    for (let t = Math.ceil(from / step) * step; t <= to; t += step) found.push(Number(t.toPrecision(6)));
    return found;
  };
  let near = -1;
  const draw = () => {
    const width = canvas.clientWidth, height = Math.round(0.85 * width), ratio = window.devicePixelRatio || 1;
    canvas.style.height = `${height}px`;
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    const pen = canvas.getContext("2d"), style = getComputedStyle(canvas);
    pen.scale(ratio, ratio);
    pen.font = `12px ${style.fontFamily}`;
    pen.fillStyle = style.color;
    pen.strokeStyle = style.color;
    pen.globalAlpha = 0.5;
    pen.strokeRect(margin.left, margin.top, width - margin.left - margin.right, height - margin.top - margin.bottom);
    pen.globalAlpha = 0.85;
    pen.textAlign = "center";
    for (const t of ticks(left, right)) {
      pen.fillText(String(t), margin.left + ((t - left) / (right - left)) * (width - margin.left - margin.right), height - margin.bottom + 15);
    }
    pen.fillText(rows.axes[0], (width + margin.left) / 2, height - 6, width - margin.left);
    pen.textAlign = "right";
    for (const t of ticks(low, high)) {
      pen.fillText(String(t), margin.left - 5, margin.top + 4 + ((high - t) / (high - low)) * (height - margin.top - margin.bottom));
    }
    pen.save();
    pen.translate(12, (height - margin.bottom) / 2);
    pen.rotate(-Math.PI / 2);
    pen.textAlign = "center";
    pen.fillText(rows.axes[1], 0, 0, height - margin.bottom);
    pen.restore();
    rows.points.forEach((_, i) => {
      const [x, y] = place(i);
      pen.beginPath();
      pen.arc(x, y, i === near ? 6 : 3.5, 0, 2 * Math.PI);
      pen.fillStyle = colour(i);
      pen.globalAlpha = 0.85;
      pen.fill();
      pen.globalAlpha = i === near ? 1 : 0.4; // an outline, since some colours are dark
      pen.stroke();
    });
  };
  const tell = () => {
    tip.hidden = near < 0;
    if (near < 0) return;
    tip.replaceChildren(make("strong", "", rows.names[near]));
    for (const each of rows.colours) tip.append(make("br"), `${each.name} ${each.shown[near]}`);
    if (rows.texts.length) tip.append(make("br"), rows.texts[near]);
    if (rows.pictures.bytes) {
      const small = make("canvas"), { width, height, channels, bytes } = rows.pictures, pen = small.getContext("2d");
      [small.width, small.height] = [width, height];
      const image = pen.createImageData(width, height), raw = atob(bytes[near]);
      for (let p = 0; p < width * height; p += 1) {
        for (let c = 0; c < 3; c += 1) image.data[4 * p + c] = raw.charCodeAt(channels * p + (channels < 3 ? 0 : c));
        image.data[4 * p + 3] = 255;
      }
      pen.putImageData(image, 0, 0);
      tip.append(make("br"), small);
    }
    const [x, y] = place(near), most = map.clientWidth - tip.offsetWidth;
    tip.style.left = `${Math.max(0, Math.min(x + 12, most))}px`;
    tip.style.top = `${canvas.offsetTop + y + 12}px`;
  };
  const show = () => {
    const each = chosen();
    const ends = (text) => make("span", "", text);
    if (each.levels) {
      key.replaceChildren(...each.levels.flatMap((name, i) => {
        if (!each.places.includes(i)) return [];
        const item = make("li"), dot = make("i");
        dot.style.background = each.colours[i];
        item.append(dot, name);
        return [item];
      }));
    } else {
      const item = make("li"), bar = make("i", "scale");
      bar.style.background = `linear-gradient(to right, ${ramp.map((c) => `rgb(${c.join(",")})`).join(",")})`;
      item.append(ends(each.ends[0]), bar, ends(each.ends[1]));
      key.replaceChildren(item);
    }
    draw();
  };
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    let best = 15;
    near = -1;
    rows.points.forEach((_, i) => {
      const [x, y] = place(i), away = Math.hypot(event.clientX - box.left - x, event.clientY - box.top - y);
      if (away < best) [near, best] = [i, away];
    });
    draw();
    tell();
  };
  select.append(...rows.colours.map((each) => make("option", "", each.name)));
  select.addEventListener("change", show);
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("pointerleave", () => { near = -1; draw(); tell(); });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", picture.alt);
  tip.hidden = true;
  label.append(select);
  map.append(label, canvas, key, tip);
  picture.replaceWith(map);
  show();
  for (const change of [window, matchMedia("(prefers-color-scheme: dark)")]) {
    change.addEventListener(change === window ? "resize" : "change", draw);
  }
}
