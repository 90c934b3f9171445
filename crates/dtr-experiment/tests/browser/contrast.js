(() => {
  // Colours of text and ground as the browser paints them, by the formula of WCAG 2.2.
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const rgb = (colour, below) => {
    canvas.fillStyle = `rgb(${below.join(' ')})`; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = c => c.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => e ? rgb(getComputedStyle(e).backgroundColor, ground(e.parentElement)) : [255, 255, 255];
  const own = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  const faint = new Set();
  for (const e of document.body.querySelectorAll('*')) {
    if (!own(e) || e.closest('title') || !e.checkVisibility()) continue;
    const svg = e.closest('svg');
    const rect = svg && e.parentElement.querySelector(':scope > rect');
    const below = rect && getComputedStyle(rect).fill !== 'none' ? rgb(getComputedStyle(rect).fill, ground(svg)) : ground(svg || e);
    const colour = rgb(svg ? getComputedStyle(e).fill : getComputedStyle(e).color, below);
    const [a, b] = [luminance(colour), luminance(below)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.add(`${ratio.toFixed(2)}: ${e.tagName} ${e.getAttribute('class') || ''} in ${e.parentElement.getAttribute('class') || e.parentElement.tagName}`);
  }
  return [...faint];
})()
